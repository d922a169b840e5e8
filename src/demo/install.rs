//! What has to stand at the vendors beforehand, and what is entered to install each of them.

use reqwest::Method;
use serde_json::{Value, json};

use super::visitor::Visitor;

/// People of the demo: `user_0` … .
pub(super) const PEOPLE: usize = 20;

/// The flag of the sandbox's datafile.
pub(super) const FLAG: &str = "one_page_checkout";

/// A flag no datafile knows.
pub(super) const OTHER_FLAG: &str = "new_nav";

/// An installed integration.
pub(super) struct Installed {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) vendor: String,
}

impl Visitor {
    /// What a user prepares in their accounts: Brevo's attributes, Pendo's fields. Without it the vendors would take
    /// the same requests and drop values without a word.
    pub(super) async fn prepare_vendors(&self) -> anyhow::Result<()> {
        let attributes: Vec<Value> = [
            ("FIRSTNAME", "text"),
            ("LASTNAME", "text"),
            ("EXPERIMENT_NAME", "text"),
            ("VARIATION_NAME", "text"),
            ("FEATURE_FLAG", "text"),
            ("FEATURE_ENABLED", "boolean"),
            ("EXPERIMENT_DATE", "date"),
            ("OPT_ONE_PAGE_CHECKOUT", "text"),
            ("OPT_NEW_NAV", "text"),
        ]
        .iter()
        .map(|(name, kind)| json!({"name": name, "type": kind}))
        .collect();
        let people: Vec<String> = (0..PEOPLE).map(|i| format!("user_{i}")).collect();
        let contacts: Vec<Value> = people
            .iter()
            .map(|id| json!({"ext_id": id, "email": format!("{id}@example.com")}))
            .collect();
        let fields = json!({format!("optimizely_{FLAG}"): "text", format!("optimizely_{OTHER_FLAG}"): "text"});
        for (vendor, state) in [
            (
                "brevo",
                json!({"attributes": attributes, "contacts": contacts}),
            ),
            (
                "pendo",
                json!({"visitors": people, "visitor_fields": fields}),
            ),
        ] {
            self.sandbox(Method::PUT, &format!("state/{vendor}"), Some(state))
                .await?;
        }
        Ok(())
    }

    /// Installs every vendor of the catalog, its first variant, against the sandbox.
    pub(super) async fn install_all(&self) -> anyhow::Result<Vec<Installed>> {
        let catalog = self.admin(Method::GET, "integration-catalog", None).await?;
        let mut installed = Vec::new();
        for entry in catalog["data"].as_array().into_iter().flatten() {
            let vendor = entry["vendor"].as_str().unwrap_or_default();
            // A name is the installer's choice: short ones make a report that can be read.
            let name = match vendor {
                "optimizely" => "Optimizely",
                "odp" => "ODP",
                _ => entry["title"].as_str().unwrap_or(vendor),
            };
            let (config, settings) = self.entered(vendor);
            let body = json!({"name": name, "variant": "default", "config": config, "settings": settings, "delivery_mode": "server_side"});
            let path = format!("integration-catalog/{vendor}/install");
            let reply = self.admin(Method::POST, &path, Some(body)).await?;
            for warning in reply["warnings"].as_array().into_iter().flatten() {
                say!(
                    "{name} warns: {}",
                    warning["message"].as_str().unwrap_or_default()
                );
            }
            installed.push(Installed {
                id: reply["id"].as_str().unwrap_or_default().to_owned(),
                name: name.to_owned(),
                vendor: vendor.to_owned(),
            });
        }
        Ok(installed)
    }

    /// What is entered for a vendor: config and settings. The short wait makes the report come sooner.
    fn entered(&self, vendor: &str) -> (Value, Value) {
        let at = |path: &str| format!("http://{}/{path}", self.sandbox);
        let wait = json!({"batch_wait_ms": 200});
        match vendor {
            "optimizely" => (
                json!({"account_id": "12345678", "project_id": "98765432", "sdk_key": "demo", "datafile_url": at("optimizely/datafiles/demo.json")}),
                json!({"events_url": at("optimizely/v1/events"), "batch_wait_ms": 200}),
            ),
            "brevo" => (
                json!({"api_key": "xkeysib-demo", "per_flag_attributes": true, "base_url": at("brevo")}),
                wait,
            ),
            "heap" => (json!({"app_id": "11", "base_url": at("heap-us")}), wait),
            "pendo" => (
                json!({"track_secret": "demo-track-secret", "integration_key": "demo-integration-key", "api_base_url": at("pendo-app"), "track_base_url": at("pendo-data")}),
                wait,
            ),
            "odp" => (
                json!({"api_key": "demo-odp-key", "base_url": at("odp")}),
                wait,
            ),
            _ => (json!({}), json!({})),
        }
    }
}
