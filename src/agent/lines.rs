//! Cuts an event stream into its data lines, in bounded memory. Pure.
//!
//! An Optimizely Agent writes each notification as `data: {…}` and a blank line, or, asked for raw, as the object and
//! a line feed (optimizely/agent, `pkg/handlers/notification.go`): always one line, without ids and names.

/// A data line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// What was said.
    Data(String),
    /// A line with more bytes than are kept.
    TooLong,
}

/// Collects pieces until a line is whole.
#[derive(Debug)]
pub(super) struct Lines {
    bytes_max: usize,
    open: Vec<u8>,
    is_too_long: bool,
}

impl Lines {
    /// `bytes_max`: longest line kept.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            open: Vec::new(),
            is_too_long: false,
        }
    }

    /// Takes a piece; hands on each line that is whole now.
    pub(super) fn take(&mut self, mut piece: &[u8], mut line: impl FnMut(Line)) {
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            let (head, rest) = piece.split_at(end);
            self.keep(head);
            piece = rest.get(1..).unwrap_or_default();
            if std::mem::take(&mut self.is_too_long) {
                line(Line::TooLong);
            } else if let Some(data) = data_of(&self.open) {
                line(Line::Data(data));
            }
            self.open.clear();
        }
        self.keep(piece);
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.open.len() + bytes.len() > self.bytes_max {
            self.is_too_long = true;
            self.open.clear();
        }
        if !self.is_too_long {
            self.open.extend_from_slice(bytes);
        }
    }
}

/// What a line says; none for blank lines, comments and other fields.
fn data_of(line: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches('\r');
    let data = match text.strip_prefix("data:") {
        Some(data) => data,
        None if text.starts_with('{') => text,
        None => return None,
    };
    let data = data.trim();
    (!data.is_empty()).then(|| data.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str, cut: usize) -> Vec<Line> {
        let mut lines = Lines::new(40);
        let mut found = Vec::new();
        for piece in text.as_bytes().chunks(cut) {
            lines.take(piece, |line| found.push(line));
        }
        found
    }

    #[test]
    fn lines_are_whole_wherever_the_stream_is_cut() {
        let long = "x".repeat(60);
        let text = format!(
            ": hello\n\ndata: {{\"a\":\"ż\"}}\n\ndata:{{}}\r\n\r\n{{\"raw\":1}}\nid: 7\ndata: {long}\n\ndata: 1\n\ndata: cut"
        );
        let data = |text: &str| Line::Data(text.to_owned());
        let wanted = [
            data("{\"a\":\"ż\"}"),
            data("{}"),
            data("{\"raw\":1}"),
            Line::TooLong,
            data("1"),
        ];
        for cut in 1..text.len() {
            assert_eq!(read(&text, cut), wanted, "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn memory_is_bounded(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..90), 0..40)) {
            let mut lines = Lines::new(40);
            for piece in pieces {
                lines.take(&piece, |_| ());
                prop_assert!(lines.open.len() <= 40);
            }
        }
    }
}
