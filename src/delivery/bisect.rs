//! Finds the culprits of a refused batch by halving it. Pure.
//!
//! What goes out next is always the first half of what is known to hold a culprit. Taken, the culprit is in the other
//! half, which is halved unsent; refused, the other half is not known to be bad and waits with the rest until this
//! culprit is found. So one culprit among n costs log2(n) requests and one for the rest; order is kept.

/// What is kept back while a part of a refused batch is on its way.
#[derive(Debug)]
pub(super) struct Search<T> {
    /// Holds a culprit if the part on its way is taken.
    rest: Vec<T>,
    /// Not known to be bad.
    unknown: Vec<T>,
}

/// What follows from an answer.
#[derive(Debug)]
pub(super) struct Found<T> {
    /// It alone was to blame.
    pub culprit: Option<T>,
    /// To be sent next; empty when nothing is left.
    pub next: Vec<T>,
    /// … as part of a search that goes on.
    pub search: Option<Search<T>>,
}

impl<T> Search<T> {
    /// All that is kept back, in order.
    pub(super) fn kept(&self) -> impl Iterator<Item = &T> {
        self.rest.iter().chain(&self.unknown)
    }

    /// All that is kept back, in order; whether it is bad is open again.
    pub(super) fn into_kept(mut self) -> Vec<T> {
        self.rest.append(&mut self.unknown);
        self.rest
    }
}

/// What was sent was refused.
pub(super) fn refused<T>(sent: Vec<T>, search: Option<Search<T>>) -> Found<T> {
    halve(sent, search.map_or_else(Vec::new, Search::into_kept))
}

/// What was sent was taken: the culprit is in the rest.
pub(super) fn taken<T>(search: Search<T>) -> Found<T> {
    halve(search.rest, search.unknown)
}

/// Goes on with a part that holds a culprit.
fn halve<T>(mut bad: Vec<T>, unknown: Vec<T>) -> Found<T> {
    if bad.len() <= 1 {
        return Found {
            culprit: bad.pop(),
            next: unknown,
            search: None,
        };
    }
    let rest = bad.split_off(bad.len().div_ceil(2));
    Found {
        culprit: None,
        next: bad,
        search: Some(Search { rest, unknown }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sends until nothing is left: (delivered, dead, requests).
    fn run(bad: &[bool]) -> (Vec<usize>, Vec<usize>, usize) {
        let (mut delivered, mut dead, mut requests) = (Vec::new(), Vec::new(), 0);
        let (mut sent, mut search) = ((0..bad.len()).collect::<Vec<_>>(), None);
        while !sent.is_empty() {
            requests += 1;
            let found = if sent.iter().any(|item| bad[*item]) {
                refused(sent, search)
            } else {
                delivered.extend(sent);
                match search {
                    Some(search) => taken(search),
                    None => break,
                }
            };
            dead.extend(found.culprit);
            (sent, search) = (found.next, found.search);
        }
        (delivered, dead, requests)
    }

    #[test]
    fn one_of_five_hundred_costs_ten_more_requests() {
        for culprit in 0..500 {
            let bad: Vec<bool> = (0..500).map(|item| item == culprit).collect();
            let (delivered, dead, requests) = run(&bad);
            assert_eq!((delivered.len(), dead), (499, vec![culprit]));
            assert!(requests <= 11, "{requests} requests for {culprit}");
        }
    }

    proptest! {
        #[test]
        fn any_set_of_culprits_is_found_and_nothing_else(bad in prop::collection::vec(any::<bool>(), 1..300)) {
            let (delivered, dead, requests) = run(&bad);
            prop_assert!(dead.iter().all(|item| bad[*item]));
            prop_assert!(delivered.iter().all(|item| !bad[*item]));
            prop_assert_eq!(delivered.len() + dead.len(), bad.len());
            prop_assert!(delivered.windows(2).all(|pair| pair[0] < pair[1]), "order is kept");
            let depth = bad.len().next_power_of_two().ilog2() as usize;
            prop_assert!(requests <= 1 + dead.len() * (depth + 1), "{requests} requests");
        }
    }
}
