//! The one door for outbound HTTP: guarded addresses, no redirects, deadlines, capped answers.
