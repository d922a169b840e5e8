//! Remarks on a blueprint: collected by byte offset, shown by line and column, with "did you mean".

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use super::{Diagnostic, Severity};

/// Most remarks that are kept: a file that is wrong throughout needs no more.
const MAX_FAULTS: usize = 200;

#[derive(Debug)]
struct Fault {
    code: &'static str,
    severity: Severity,
    span: Range<usize>,
    message: String,
    help: Option<String>,
}

/// Remarks as they are found.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    found: Vec<Fault>,
}

impl Faults {
    pub(crate) fn error(&mut self, code: &'static str, span: Range<usize>, message: String) {
        self.push(code, span, message, None);
    }

    pub(crate) fn push(
        &mut self,
        code: &'static str,
        span: Range<usize>,
        message: String,
        help: Option<String>,
    ) {
        self.add(code, Severity::Error, span, message, help);
    }

    pub(crate) fn warn(&mut self, code: &'static str, span: Range<usize>, message: String) {
        self.add(code, Severity::Warning, span, message, None);
    }

    fn add(
        &mut self,
        code: &'static str,
        severity: Severity,
        span: Range<usize>,
        message: String,
        help: Option<String>,
    ) {
        let repeated = self
            .found
            .iter()
            .any(|fault| fault.span == span && fault.message == message);
        if self.found.len() < MAX_FAULTS && !repeated {
            self.found.push(Fault {
                code,
                severity,
                span,
                message,
                help,
            });
        }
    }

    pub(crate) fn any_error(&self) -> bool {
        self.found
            .iter()
            .any(|fault| fault.severity == Severity::Error)
    }

    /// How many there are: to see whether a step added any.
    pub(crate) fn count(&self) -> usize {
        self.found.len()
    }

    /// By place, with lines and columns.
    pub(crate) fn finish(mut self, text: &str) -> Vec<Diagnostic> {
        self.found
            .sort_by_key(|fault| (fault.span.start, fault.span.end));
        let lines = Lines::of(text);
        self.found
            .into_iter()
            .map(|fault| {
                let (line, column) = lines.place(text, fault.span.start);
                let (end_line, end_column) =
                    lines.place(text, fault.span.end.max(fault.span.start));
                Diagnostic {
                    code: fault.code.to_owned(),
                    severity: fault.severity,
                    line,
                    column,
                    end_line,
                    end_column,
                    message: fault.message,
                    help: fault.help,
                }
            })
            .collect()
    }
}

/// Where each line starts.
#[derive(Debug, Clone)]
pub(crate) struct Lines(Vec<usize>);

impl Lines {
    pub(crate) fn of(text: &str) -> Self {
        Self(
            std::iter::once(0)
                .chain(text.match_indices('\n').map(|(at, _)| at + 1))
                .collect(),
        )
    }

    /// The line of a byte offset, from 1.
    pub(crate) fn line(&self, at: usize) -> u32 {
        u32::try_from(self.0.partition_point(|start| *start <= at)).unwrap_or(u32::MAX)
    }

    fn place(&self, text: &str, at: usize) -> (u32, u32) {
        let at = super::yaml::floor(text, at);
        let line = self.0.partition_point(|start| *start <= at).max(1);
        let start = self.0.get(line - 1).copied().unwrap_or(0);
        let column = text
            .get(start..at)
            .map_or(0, |before| before.chars().count())
            + 1;
        (
            u32::try_from(line).unwrap_or(u32::MAX),
            u32::try_from(column).unwrap_or(u32::MAX),
        )
    }

    fn offset(&self, text: &str, line: u32, column: u32) -> usize {
        let start = usize::try_from(line.max(1) - 1)
            .ok()
            .and_then(|line| self.0.get(line))
            .copied()
            .unwrap_or(text.len());
        text.get(start..)
            .and_then(|rest| {
                rest.char_indices()
                    .map(|(at, _)| at)
                    .chain(std::iter::once(rest.len()))
                    .nth(usize::try_from(column.max(1) - 1).ok()?)
            })
            .map_or(text.len(), |at| start + at)
    }
}

/// The remarks as text, each under the line it is about.
pub(super) fn render(file: &str, text: &str, diagnostics: &[Diagnostic]) -> String {
    let lines = Lines::of(text);
    let renderer = Renderer::plain();
    let mut out = String::new();
    for diagnostic in diagnostics {
        let start = lines.offset(text, diagnostic.line, diagnostic.column);
        let end = lines
            .offset(text, diagnostic.end_line, diagnostic.end_column)
            .max(start);
        // A remark on a whole block is shown at its first line.
        let end = text
            .get(start..end)
            .and_then(|inside| inside.find('\n'))
            .map_or(end, |at| start + at);
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let snippet = Snippet::source(text)
            .path(file)
            .annotation(AnnotationKind::Primary.span(start..end));
        let mut group = level
            .primary_title(diagnostic.message.as_str())
            .id(diagnostic.code.as_str())
            .element(snippet);
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        out.push_str(&renderer.render(&[group]));
        out.push_str("\n\n");
    }
    out
}

/// "did you mean `…`?", when one of the known names is near.
pub(crate) fn did_you_mean<'a>(
    name: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    nearest(name, known).map(|near| format!("did you mean `{near}`?"))
}

/// The known name that differs from this one only in case, or by a slip or two.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut best: Option<(usize, &str)> = None;
    for candidate in known {
        let distance = if candidate == name {
            continue;
        } else if candidate.to_lowercase() == name.to_lowercase() {
            0
        } else {
            match distance_within(name, candidate, 2) {
                // A short word is not near to every other short word.
                Some(distance)
                    if distance < candidate.chars().count().min(name.chars().count()) =>
                {
                    distance
                }
                _ => continue,
            }
        };
        if best.is_none_or(|(nearest, _)| distance < nearest) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// How many letters must be added, left out, changed or swapped with their neighbour; None above `most`.
fn distance_within(left: &str, right: &str, most: usize) -> Option<usize> {
    const LONGEST: usize = 64;
    let left: Vec<char> = left.chars().take(LONGEST + 1).collect();
    let right: Vec<char> = right.chars().take(LONGEST + 1).collect();
    if left.len() > LONGEST || right.len() > LONGEST || left.len().abs_diff(right.len()) > most {
        return None;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, b) in right.iter().enumerate() {
            let mut cost = (row[j] + usize::from(a != b))
                .min(row[j + 1] + 1)
                .min(next[j] + 1);
            if i > 0 && j > 0 && *a == right[j - 1] && left[i - 1] == *b {
                cost = cost.min(before[j - 1] + 1);
            }
            next.push(cost);
        }
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied().filter(|distance| *distance <= most)
}
