//! The newest datafile of each integration, for whoever evaluates or classifies.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Datafile;

/// A datafile and the integration it belongs to.
#[derive(Debug)]
pub struct Known {
    /// Id of the integration.
    pub integration: String,
    /// The end of its SDK key: enough to tell two apart, too little to use.
    pub sdk_key_tail: String,
    /// What was read last.
    pub datafile: Arc<Datafile>,
}

/// All known datafiles, in the order of the integrations' ids. Clones share what they hold; reading never waits.
#[derive(Debug, Clone, Default)]
pub struct Shared(Arc<ArcSwap<Vec<Arc<Known>>>>);

impl Shared {
    /// What is known now.
    #[must_use]
    pub fn load(&self) -> Arc<Vec<Arc<Known>>> {
        self.0.load_full()
    }

    /// Takes the place of what was known of this integration.
    pub fn publish(&self, known: Known) {
        let known = Arc::new(known);
        self.0.rcu(|all| {
            let mut all: Vec<_> = (**all).clone();
            match all.binary_search_by(|other| other.integration.cmp(&known.integration)) {
                Ok(index) => {
                    if let Some(place) = all.get_mut(index) {
                        *place = known.clone();
                    }
                }
                Err(index) => all.insert(index, known.clone()),
            }
            all
        });
    }

    /// Forgets an integration: it was removed or switched off.
    pub fn remove(&self, integration: &str) {
        self.0.rcu(|all| {
            all.iter()
                .filter(|known| known.integration != integration)
                .cloned()
                .collect::<Vec<_>>()
        });
    }

    /// The first datafile that has this flag.
    #[must_use]
    pub fn with_flag(&self, flag: &str) -> Option<Arc<Known>> {
        self.load()
            .iter()
            .find(|known| known.datafile.has_flag(flag))
            .cloned()
    }
}
