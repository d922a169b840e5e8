//! The text of a formula to a tree: a path, a "text", a number, true, false, or `name(formula, …)`.
//!
//! Knows the grammar only: whether a name means anything is decided in [`super::resolve`].

use std::ops::Range;

/// Deepest nesting of calls.
const MAX_DEPTH: usize = 24;

/// A formula and its place (bytes within the text it stands in).
#[derive(Debug, Clone)]
pub(crate) struct Formula {
    pub(crate) span: Range<usize>,
    pub(crate) kind: Kind,
}

/// What a formula is.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Path(Vec<Word>),
    Text(Vec<Piece>),
    Number(String),
    Bool(bool),
    Call { name: Word, args: Vec<Formula> },
}

/// One step of a path, or a function's name.
#[derive(Debug, Clone)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) span: Range<usize>,
}

/// A piece of a text with holes.
#[derive(Debug, Clone)]
pub(crate) enum Piece {
    Plain(String),
    Hole(Formula),
}

/// A text that is no formula.
#[derive(Debug, Clone)]
pub(crate) struct Slip {
    pub(crate) span: Range<usize>,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
    /// Something was not closed: YAML may have cut it.
    pub(crate) cut: bool,
}

/// Reads what follows the `=`; `from` is the offset of its first byte.
pub(crate) fn read(text: &str, from: usize) -> Result<Formula, Slip> {
    let mut reader = Reader { text, at: from };
    reader.white();
    let formula = reader.formula(0)?;
    reader.white();
    if reader.at < text.len() {
        return Err(reader.left_over());
    }
    Ok(formula)
}

/// Reads a text with `{holes}`.
pub(crate) fn read_text(text: &str) -> Result<Vec<Piece>, Slip> {
    Reader { text, at: 0 }.pieces(None, 0)
}

/// Whether a text has anything to fill in or to unescape.
pub(crate) fn has_holes(text: &str) -> bool {
    text.contains(['{', '}'])
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn bump(&mut self) {
        self.at += self.peek().map_or(0, char::len_utf8);
    }

    fn white(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn slip(&self, span: Range<usize>, message: impl Into<String>, help: Option<&str>) -> Slip {
        Slip {
            span,
            message: message.into(),
            help: help.map(str::to_owned),
            cut: false,
        }
    }

    fn cut(&self, span: Range<usize>, message: impl Into<String>) -> Slip {
        Slip {
            span,
            message: message.into(),
            help: None,
            cut: true,
        }
    }

    fn left_over(&self) -> Slip {
        self.slip(
            self.at..self.text.len(),
            "the formula should end here",
            Some(
                self.instead().unwrap_or(
                    "a formula is one path, one \"text\", one number or one function(…)",
                ),
            ),
        )
    }

    /// What to write instead of the sign that stands here.
    fn instead(&self) -> Option<&'static str> {
        match self.peek() {
            Some('+' | '-' | '*' | '/') => {
                Some("there are no operators: write sum(…), cents(…) or minor_units(…)")
            }
            Some('|' | '?' | '&' | '=' | '<' | '>' | '!') => Some(
                "there are no operators: write first(…), if(…), is(…), all(…), any(…) or not(…)",
            ),
            Some('[') => Some("write a place in a list with a dot: properties.products.0.sku"),
            _ => None,
        }
    }

    fn formula(&mut self, depth: usize) -> Result<Formula, Slip> {
        let start = self.at;
        if depth > MAX_DEPTH {
            return Err(self.slip(
                start..self.text.len(),
                format!("formulas may stand {MAX_DEPTH} deep"),
                Some("give the inner part a name under `values`"),
            ));
        }
        match self.peek() {
            None => Err(self.cut(start..start, "a formula is missing here")),
            Some('"') => {
                self.bump();
                let pieces = self.pieces(Some(start), depth)?;
                Ok(self.done(start, Kind::Text(pieces)))
            }
            Some(c) if c == '-' || c.is_ascii_digit() => self.number(start),
            Some(c) if is_word_start(c) => self.path_or_call(start, depth),
            Some('\'') => Err(self.slip(
                start..self.text.len(),
                "a text in a formula stands in double quotes",
                None,
            )),
            Some(')') | Some(',') => {
                Err(self.slip(start..self.at + 1, "a formula is missing here", None))
            }
            Some(c) => Err(self.slip(
                start..start + c.len_utf8(),
                format!("a formula cannot start with `{c}`"),
                Some("a formula is a path, a \"text\", a number or a function(…)"),
            )),
        }
    }

    fn done(&self, start: usize, kind: Kind) -> Formula {
        Formula {
            span: start..self.at,
            kind,
        }
    }

    fn number(&mut self, start: usize) -> Result<Formula, Slip> {
        while self
            .peek()
            .is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+'))
        {
            self.bump();
        }
        let text = self.text[start..self.at].to_owned();
        if super::yaml::is_json_number(&text) {
            Ok(self.done(start, Kind::Number(text)))
        } else {
            Err(self.slip(start..self.at, format!("`{text}` is not a number"), None))
        }
    }

    fn word(&mut self) -> Word {
        let start = self.at;
        while self.peek().is_some_and(is_word) {
            self.bump();
        }
        Word {
            text: self.text[start..self.at].to_owned(),
            span: start..self.at,
        }
    }

    fn path_or_call(&mut self, start: usize, depth: usize) -> Result<Formula, Slip> {
        let first = self.word();
        let after = self.at;
        self.white();
        if self.peek() == Some('(') {
            return self.call(start, first, depth);
        }
        self.at = after;
        if self.peek() != Some('.') {
            match first.text.as_str() {
                "true" => return Ok(self.done(start, Kind::Bool(true))),
                "false" => return Ok(self.done(start, Kind::Bool(false))),
                _ => {}
            }
        }
        let mut path = vec![first];
        while self.peek() == Some('.') {
            self.bump();
            let step = match self.peek() {
                Some('"') => self.quoted_word()?,
                Some(c) if is_word(c) => self.word(),
                _ => {
                    return Err(self.slip(
                        start..self.at,
                        "a name is missing after the dot",
                        Some("a name with spaces or dots stands in quotes: traits.\"Shoe size\""),
                    ));
                }
            };
            path.push(step);
        }
        Ok(self.done(start, Kind::Path(path)))
    }

    fn quoted_word(&mut self) -> Result<Word, Slip> {
        let start = self.at;
        self.bump();
        let Some(length) = self.rest().find('"') else {
            return Err(self.cut(start..self.text.len(), "this name is not closed"));
        };
        let text = self.rest()[..length].to_owned();
        self.at += length + 1;
        Ok(Word {
            text,
            span: start..self.at,
        })
    }

    fn call(&mut self, start: usize, name: Word, depth: usize) -> Result<Formula, Slip> {
        self.bump();
        let mut args = Vec::new();
        self.white();
        if self.peek() == Some(')') {
            self.bump();
            return Ok(self.done(start, Kind::Call { name, args }));
        }
        loop {
            self.white();
            if self.peek().is_none() {
                return Err(self.not_closed(start, &name));
            }
            args.push(self.formula(depth + 1)?);
            self.white();
            match self.peek() {
                Some(',') => self.bump(),
                Some(')') => {
                    self.bump();
                    return Ok(self.done(start, Kind::Call { name, args }));
                }
                None => return Err(self.not_closed(start, &name)),
                Some(_) => {
                    return Err(self.slip(
                        self.at..self.text.len(),
                        format!("a comma or the end of `{}(` should stand here", name.text),
                        self.instead(),
                    ));
                }
            }
        }
    }

    fn not_closed(&self, start: usize, name: &Word) -> Slip {
        self.cut(
            start..self.text.len(),
            format!("`{}(` is not closed", name.text),
        )
    }

    /// Pieces up to the closing quote, or to the end when there is none to look for.
    fn pieces(&mut self, quote: Option<usize>, depth: usize) -> Result<Vec<Piece>, Slip> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        loop {
            let Some(c) = self.peek() else {
                match quote {
                    Some(start) => {
                        return Err(self.cut(start..self.text.len(), "this text is not closed"));
                    }
                    None => break,
                }
            };
            let doubled = self.rest().chars().nth(1) == Some(c);
            match c {
                '"' if quote.is_some() => {
                    self.bump();
                    break;
                }
                '{' | '}' if doubled => {
                    plain.push(c);
                    self.at += 2;
                }
                '}' => {
                    return Err(self.slip(
                        self.at..self.at + 1,
                        "this `}` closes nothing",
                        Some("a plain brace is written twice: }}"),
                    ));
                }
                '{' => {
                    let start = self.at;
                    self.bump();
                    self.white();
                    let hole = self.formula(depth + 1)?;
                    self.white();
                    if self.peek() != Some('}') {
                        let mut slip = self.cut(start..self.at, "this `{` is not closed");
                        slip.help = Some("a plain brace is written twice: {{".to_owned());
                        return Err(slip);
                    }
                    self.bump();
                    if !plain.is_empty() {
                        pieces.push(Piece::Plain(std::mem::take(&mut plain)));
                    }
                    pieces.push(Piece::Hole(hole));
                }
                c => {
                    plain.push(c);
                    self.bump();
                }
            }
        }
        if !plain.is_empty() || pieces.is_empty() {
            pieces.push(Piece::Plain(plain));
        }
        Ok(pieces)
    }
}

fn is_word_start(c: char) -> bool {
    c.is_alphabetic() || matches!(c, '_' | '$')
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$' | '-')
}
