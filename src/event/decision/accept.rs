//! From the body of a decision call to records: the shapes of [`posted`](super::posted), alone or in a batch.

use bytes::BytesMut;

use super::posted;
use crate::event::check::{Checked, Field, Member};
use crate::event::parse::{Acceptance, Accepted, Body, BodyFault, Fault, Form};
use crate::event::scan::Scanner;

impl<'a> Body<'a> {
    /// Reads the body of a decision call: one decision, `{"batch": [decision, …]}`, or an array of decisions (an
    /// Agent's answer for several flags). Python's four arguments are an array too; their first is a text.
    ///
    /// # Errors
    /// When it is neither object nor array, or holds more than `events_max` decisions.
    pub fn decisions(text: &'a str, events_max: usize) -> Result<Self, BodyFault> {
        let mut scanner = Scanner::new(text);
        match scanner.peek() {
            Some(b'{') => {
                let body = Self::single(text)?;
                let is_batch = body
                    .lone()
                    .iter()
                    .any(|member| member.key.raw == "\"batch\"" && member.value.starts_with('['));
                if is_batch {
                    return Self::batch(text, events_max);
                }
                Ok(body)
            }
            Some(b'[') => {
                let mut several = Self::default();
                several.form = Form::Array;
                let mut first = None;
                let mut count = 0;
                scanner.array(1, |scanner| {
                    first = first.or(scanner.peek());
                    count += 1;
                    if count > events_max {
                        return scanner.value(2).map(|_| ());
                    }
                    several.item(scanner, 2)
                })?;
                scanner.end()?;
                if first.is_some_and(|first| !matches!(first, b'{' | b'[')) {
                    let mut one = Self::default();
                    one.item(&mut Scanner::new(text), 1)?;
                    return Ok(one);
                }
                if count > events_max {
                    return Err(BodyFault::TooMany(events_max));
                }
                Ok(several)
            }
            _ => {
                scanner.value(1)?;
                scanner.end()?;
                Err(BodyFault::NotAnObject)
            }
        }
    }

    /// Validates decision `index` and writes its record; as [`Body::accept`].
    ///
    /// # Errors
    /// The first fault found.
    pub fn accept_decision(
        &self,
        index: usize,
        with: &Acceptance<'_>,
        out: &mut BytesMut,
    ) -> Result<Accepted<'a>, Fault> {
        let item = self.sized(index, with)?;
        let report = posted::of_raw(item.raw)?;
        let decision = report.read()?;
        let around: Vec<Member<'a>> = self
            .members_of(item)
            .unwrap_or_default()
            .iter()
            .filter(|member| surrounds(member.field))
            .copied()
            .collect();
        let event = Checked::of_decision(&around, report.user_id, self.sent_at)?;
        event.check_admitted(with)?;
        Ok(self.write(item, &event, &around, Some(decision), with, out))
    }
}

/// Members that may stand beside a report and are kept; all others are the report.
fn surrounds(field: Field) -> bool {
    match field {
        Field::MessageId
        | Field::AnonymousId
        | Field::Timestamp
        | Field::OriginalTimestamp
        | Field::SentAt
        | Field::Event
        | Field::Properties
        | Field::Traits
        | Field::Context
        | Field::Integrations => true,
        Field::Type
        | Field::UserId
        | Field::WriteKey
        | Field::Ours
        | Field::GroupId
        | Field::PreviousId
        | Field::Other => false,
    }
}
