//! A job's request: its items, combined where the request says so, with the vendor's envelope around them.

use super::combine;
use super::flow::Job;
use crate::blueprint::Plan;

/// Makes the request of a job, once: every attempt sends the same bytes.
///
/// # Errors
/// Why it cannot be made (yet), in words.
pub(super) fn make(plan: &Plan, job: &mut Job) -> Result<(), String> {
    let request = job.batch.request;
    let combines = plan
        .requests()
        .get(request)
        .is_some_and(|request| request.combine);
    let combined = combines
        .then(|| combine::combine(&job.batch.items))
        .flatten();
    let items: Vec<&[u8]> = match &combined {
        Some(combined) => combined.objects.iter().map(Vec::as_slice).collect(),
        None => {
            let items = job.batch.items.iter();
            items.map(|item| &*item.json).collect()
        }
    };
    job.wire = Some(plan.assemble(request, &items, &job.batch.envelope.tables)?);
    job.combined = combined.map(|combined| combined.of);
    Ok(())
}
