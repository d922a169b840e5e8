//! Asks the vendor itself before an integration is stored: a key that opens nothing is better refused now than found
//! in a paused integration tomorrow; what must be prepared at the vendor is said in words.

use super::checks::{Checks, DocumentFault};
use super::draft::fault;
use crate::blueprint::{Config, FieldFault};

/// Most questions asked for one install, those that follow from answers included.
const QUESTIONS_MAX: usize = 300;

/// Most warnings in one answer; the rest is counted.
const WARNINGS_MAX: usize = 50;

/// Asks what there is to ask. Faults are reasons to refuse, warnings are not.
pub(super) async fn ask(
    vendor: &str,
    config: &Config,
    checks: &Checks,
    faults: &mut Vec<FieldFault>,
    warnings: &mut Vec<FieldFault>,
) {
    let Some(vendor) = (checks.vendor)(vendor) else {
        return;
    };
    let mut questions = vendor.questions(config);
    let flags = (checks.flags)();
    let mut said = vendor.remarks(config, &flags);
    let mut at = 0;
    while let Some(question) = questions.get(at).cloned() {
        at += 1;
        match checks.vendors.ask(&question).await {
            Ok(answer) => {
                let found = vendor.judge(config, question.about, &answer, &flags);
                faults.extend(found.faults);
                said.extend(found.warnings);
                questions.extend(found.then);
                questions.truncate(QUESTIONS_MAX);
            }
            Err(trouble) => {
                let field = format!("config.{}", question.field);
                let given = config.contains_key(question.field);
                match trouble {
                    DocumentFault::Blocked(code, words) => faults.push(fault(field, &code, words)),
                    DocumentFault::Unreachable(words) if given => faults.push(fault(
                        field,
                        "unreachable",
                        format!("nobody answers at this address ({words})"),
                    )),
                    other => said.push(fault(
                        "config",
                        "not_checked",
                        format!(
                            "{} could not be asked now: {}",
                            vendor.name(),
                            words(&other)
                        ),
                    )),
                }
                // The others would fail alike, each after its deadline.
                break;
            }
        }
    }
    let more = said.len().saturating_sub(WARNINGS_MAX);
    said.truncate(WARNINGS_MAX);
    if more > 0 {
        said.push(fault(
            "config",
            "more",
            format!("and {more} more of this kind"),
        ));
    }
    warnings.extend(said);
}

fn words(trouble: &DocumentFault) -> String {
    match trouble {
        DocumentFault::Status(status) => format!("status {status}"),
        DocumentFault::NotJson => "the answer is no JSON".to_owned(),
        DocumentFault::Blocked(_, words) | DocumentFault::Unreachable(words) => words.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::future::BoxFuture;
    use serde_json::{Value, json};

    use super::*;
    use crate::blueprint::ConfigValue;
    use crate::registry::checks::VendorCheck;
    use crate::registry::tests::checks as offline;
    use crate::secret::Secret;
    use crate::vendor::preflight::{Answered, Question};

    /// Answers every question alike.
    #[derive(Debug)]
    struct Says(Result<Answered, DocumentFault>);

    impl VendorCheck for Says {
        fn ask<'a>(&'a self, _: &'a Question) -> BoxFuture<'a, Result<Answered, DocumentFault>> {
            let answer = self.0.clone();
            Box::pin(async move { answer })
        }
    }

    async fn asked(
        answer: Result<Answered, DocumentFault>,
        extra: &[(&str, ConfigValue)],
    ) -> (Vec<String>, Vec<FieldFault>) {
        let key = ConfigValue::Secret(Secret::new("xkeysib-1".to_owned()));
        let mut config = Config::from([("api_key".to_owned(), key)]);
        config.extend(
            extra
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.clone())),
        );
        let mut checks = offline(&Arc::default());
        checks.vendors = Arc::new(Says(answer));
        checks.flags = Arc::new(|| vec!["a-b".to_owned(), "a_b".to_owned()]);
        let (mut faults, mut warnings) = (Vec::new(), Vec::new());
        ask("brevo", &config, &checks, &mut faults, &mut warnings).await;
        let faults = faults
            .into_iter()
            .map(|f| format!("{} {}", f.field, f.code))
            .collect();
        (faults, warnings)
    }

    fn ok(status: u16, body: Value) -> Result<Answered, DocumentFault> {
        Ok(Answered { status, body })
    }

    #[tokio::test]
    async fn a_refused_key_is_a_fault_and_missing_attributes_are_warnings() {
        let (faults, _) = asked(ok(401, json!({"message": "Key not found"})), &[]).await;
        assert_eq!(faults, ["config.api_key unauthorized"]);
        let per_flag = [("per_flag_attributes", ConfigValue::YesNo(true))];
        let (faults, warnings) = asked(ok(200, json!({"attributes": []})), &per_flag).await;
        assert!(faults.is_empty());
        assert_eq!(warnings[0].code, "name_collision");
        assert!(warnings.iter().any(|w| w.message.contains("`OPT_A_B`")));
    }

    #[tokio::test]
    async fn who_entered_an_address_learns_that_nobody_is_there_others_are_not_held_up() {
        let down = || Err(DocumentFault::Unreachable("connection refused".to_owned()));
        let (faults, warnings) = asked(down(), &[]).await;
        assert!(faults.is_empty());
        assert_eq!(warnings[0].code, "not_checked");
        let url = ConfigValue::Text("https://brevo.example".to_owned());
        let (faults, _) = asked(down(), &[("base_url", url)]).await;
        assert_eq!(faults, ["config.base_url unreachable"]);
    }
}
