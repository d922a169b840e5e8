//! Which fields a vendor has: looked up with the first request that writes some, every hour, and when it refuses one.

use std::time::Duration;

use hashbrown::HashMap;

use super::super::flow::{Heard, Job};
use super::{Done, Worker};
use crate::blueprint::Request;
use crate::clock::Millis;
use crate::metrics;
use crate::vendor::http::{Answer, SendError};
use crate::vendor::replies::{self, Fields};

/// What is known is looked up again after this.
const EVERY_MS: Millis = 3_600_000;

/// … and after this when there was no answer.
const AGAIN_MS: Millis = 60_000;

/// When fields were last asked for, by request.
#[derive(Debug, Default)]
pub(super) struct Watch {
    asked: HashMap<usize, Asked>,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    /// When what is known was asked for; none when nothing is.
    known_ms: Option<Millis>,
    next_ms: Millis,
}

/// A question under way.
#[derive(Debug)]
pub(super) struct Looked {
    request: usize,
    at_ms: Millis,
    /// What was, or is to be, written.
    wire: Request,
    /// Refused, and waiting for the answer.
    refused: Option<(Job, Heard)>,
}

impl Worker {
    /// Looks up which fields there are when that is due, beside a request that writes some.
    pub(super) fn watch_fields(&mut self, request: usize, wire: &Request, now_ms: Millis) {
        let Some(fields) = self.fields_of(request) else {
            return;
        };
        let asked = self.fields.asked.get(&request);
        if asked.is_some_and(|asked| now_ms < asked.next_ms) {
            return;
        }
        self.ask_fields(fields, request, wire.clone(), None, now_ms);
    }

    /// Is what is known of the fields older than a request sent at `sent_ms`?
    pub(super) fn fields_are_old(&self, request: usize, sent_ms: Millis) -> bool {
        let asked = self.fields.asked.get(&request);
        let known_ms = asked.and_then(|asked| asked.known_ms);
        self.fields_of(request).is_some() && known_ms.is_none_or(|known_ms| known_ms < sent_ms)
    }

    /// A request was refused, perhaps for a field the vendor does not have: that is found out first.
    pub(super) fn look_up_fields(&mut self, job: Job, heard: Heard, now_ms: Millis) {
        let request = job.batch.request;
        let (Some(fields), Some(wire)) = (self.fields_of(request), job.wire.clone()) else {
            return self.hear(job, heard, now_ms);
        };
        self.ask_fields(fields, request, wire, Some((job, heard)), now_ms);
    }

    fn fields_of(&self, request: usize) -> Option<&'static Fields> {
        let plan = &self.parts.integration.plan;
        replies::fields(plan.requests().get(request)?.replies.as_deref()?)
    }

    fn ask_fields(
        &mut self,
        fields: &'static Fields,
        request: usize,
        wire: Request,
        refused: Option<(Job, Heard)>,
        now_ms: Millis,
    ) {
        let Some(question) = (fields.ask)(&wire) else {
            if let Some((job, heard)) = refused {
                self.hear(job, heard, now_ms);
            }
            return;
        };
        let known_ms = self
            .fields
            .asked
            .get(&request)
            .and_then(|asked| asked.known_ms);
        let next_ms = now_ms + AGAIN_MS;
        let asked = Asked { known_ms, next_ms };
        self.fields.asked.insert(request, asked);
        let looked = Box::new(Looked {
            request,
            at_ms: now_ms,
            wire,
            refused,
        });
        let timeout = Duration::from_millis(self.parts.integration.tuning.timeout_ms);
        let asking = self.parts.sender.send(question, timeout);
        self.work.push(Box::pin(async move {
            let result = asking.await;
            Done::Fields { looked, result }
        }));
    }

    /// The vendor said which fields it has, or did not.
    pub(super) fn take_fields(
        &mut self,
        looked: Looked,
        result: Result<Answer, SendError>,
        now_ms: Millis,
    ) {
        let id = &self.parts.integration.id;
        let label = match &result {
            Ok(answer) => answer.status.to_string(),
            Err(error) => error.kind.as_str().to_owned(),
        };
        metrics::vendor_requests(id, "fields", &label).increment(1);
        let answered = result.ok().filter(|answer| answer.status == 200);
        let fields = self.fields_of(looked.request);
        let known = answered.zip(fields).and_then(|(answer, fields)| {
            let names = (fields.read)(&looked.wire, &answer.body)?;
            Some((fields.inside, names))
        });
        match known {
            Some((inside, names)) => {
                self.flow.fields_known(looked.request, inside, names);
                let asked = Asked {
                    known_ms: Some(looked.at_ms),
                    next_ms: looked.at_ms + EVERY_MS,
                };
                self.fields.asked.insert(looked.request, asked);
            }
            None => tracing::warn!(
                integration = %id,
                status = label,
                "the vendor does not say which fields it has"
            ),
        }
        if let Some((job, heard)) = looked.refused {
            self.hear(job, heard, now_ms);
        }
    }
}
