//! Halves a refused batch. Pure. Done again and again, it leaves each culprit alone and everything else together.

/// Takes the second half out of `items` (the smaller one when the number is odd).
pub(super) fn split<T>(items: &mut Vec<T>) -> Vec<T> {
    items.split_off(items.len().div_ceil(2))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::split;

    proptest! {
        #[test]
        fn any_set_of_culprits_is_found_and_nothing_else(bad in prop::collection::vec(any::<bool>(), 1..300)) {
            let mut todo = vec![(0..bad.len()).collect::<Vec<_>>()];
            let (mut delivered, mut dead, mut requests) = (Vec::new(), Vec::new(), 0usize);
            while let Some(mut batch) = todo.pop() {
                requests += 1;
                if !batch.iter().any(|item| bad[*item]) {
                    delivered.extend(batch);
                } else if batch.len() == 1 {
                    dead.extend(batch);
                } else {
                    let right = split(&mut batch);
                    prop_assert!(!batch.is_empty() && !right.is_empty());
                    todo.push(right);
                    todo.push(batch);
                }
            }
            prop_assert!(dead.iter().all(|item| bad[*item]));
            prop_assert!(delivered.iter().all(|item| !bad[*item]));
            prop_assert_eq!(delivered.len() + dead.len(), bad.len());
            let culprits = dead.len();
            let depth = bad.len().next_power_of_two().ilog2() as usize;
            prop_assert!(requests <= 1 + 2 * culprits * depth.max(1), "{requests} requests");
        }
    }
}
