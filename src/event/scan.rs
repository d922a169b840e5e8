//! A JSON scanner: checks the whole grammar of a text in one pass and hands out the raw slices of its
//! members. It builds no values, so a call costs no allocation per field and numbers keep their digits.
//!
//! It takes exactly what `serde_json` takes (a property test holds the two side by side), except that
//! nesting ends at [`DEPTH_MAX`], the deepest a stored record can be read back with. A lone surrogate
//! (`"\ud83d"`, what `JSON.stringify` makes of a cut emoji) is grammar, and passes.

use std::borrow::Cow;

/// Deepest nesting of objects and arrays that is taken; 128 is refused.
pub const DEPTH_MAX: usize = 127;

/// Where and why a text is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyntaxFault {
    /// Byte offset in the text.
    pub at: usize,
    /// What is wrong there.
    pub kind: SyntaxKind,
}

/// What is wrong with a text that is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyntaxKind {
    /// The text ends before the value does.
    Ends,
    /// Something else stands where this was expected.
    Expected(Wanted),
    /// Nested deeper than [`DEPTH_MAX`].
    TooDeep,
}

/// What the grammar asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing more.
    End,
    /// An object.
    Object,
    /// An array.
    Array,
    /// The name of a member.
    Key,
    /// What follows a name.
    Colon,
    /// What follows a member.
    NextMember,
    /// What follows an item of an array.
    NextItem,
    /// Any value.
    Value,
    /// One of the three words.
    Word,
    /// A digit of a number.
    Digit,
    /// A character that may stand in a text.
    Plain,
    /// The digits of an escape.
    Hex,
    /// What follows a backslash.
    Escape,
}

impl Wanted {
    fn as_str(self) -> &'static str {
        match self {
            Self::End => "the end of the text",
            Self::Object => "an object",
            Self::Array => "an array",
            Self::Key => "a key in double quotes",
            Self::Colon => "`:` after a key",
            Self::NextMember => "`,` or `}`",
            Self::NextItem => "`,` or `]`",
            Self::Value => "a value",
            Self::Word => "`true`, `false` or `null`",
            Self::Digit => "a digit",
            Self::Plain => "no control character inside a text",
            Self::Hex => "four hexadecimal digits after `\\u`",
            Self::Escape => "an escape such as `\\n`",
        }
    }
}

impl std::fmt::Display for SyntaxKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ends => f.write_str("the JSON ends too early"),
            Self::Expected(what) => {
                write!(f, "not valid JSON: expected {}", what.as_str())
            }
            Self::TooDeep => write!(f, "the JSON is nested deeper than {DEPTH_MAX} levels"),
        }
    }
}

/// A JSON text (in the sense of "string") as it stands in the source, quotes included.
#[derive(Debug, Clone, Copy)]
pub struct Text<'a> {
    /// The slice, quotes included.
    pub raw: &'a str,
    /// It holds backslash escapes.
    pub escaped: bool,
}

impl<'a> Text<'a> {
    /// Takes a raw value for a text when it is one.
    #[must_use]
    pub fn of(raw: &'a str) -> Option<Self> {
        raw.starts_with('"').then(|| Self {
            raw,
            escaped: raw.as_bytes().contains(&b'\\'),
        })
    }

    /// The characters meant; none when an escape names half a surrogate pair.
    #[must_use]
    pub fn read(&self) -> Option<Cow<'a, str>> {
        if self.escaped {
            serde_json::from_str(self.raw).ok().map(Cow::Owned)
        } else {
            let inner = self.raw.get(1..self.raw.len().saturating_sub(1))?;
            Some(Cow::Borrowed(inner))
        }
    }
}

/// Reads one text from front to back.
#[derive(Debug)]
pub struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

type Scan<T> = Result<T, SyntaxFault>;

impl<'a> Scanner<'a> {
    /// A scanner at the beginning of `text`.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// How far it has read, in bytes.
    #[must_use]
    pub fn at(&self) -> usize {
        self.at
    }

    /// The next byte that is not white space.
    pub fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        loop {
            match bytes.get(self.at).copied() {
                // What is stored has none.
                Some(byte) if byte > b' ' => return Some(byte),
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                other => return other,
            }
        }
    }

    /// Refuses anything but white space after the value.
    ///
    /// # Errors
    /// When something follows.
    pub fn end(&mut self) -> Scan<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.expected(Wanted::End)),
        }
    }

    /// Reads an object, calling `member` for each key; it must read the value. `depth`: of the object
    /// itself, 1 at the top.
    ///
    /// # Errors
    /// When what stands here is not a well-formed object.
    pub fn object(
        &mut self,
        depth: usize,
        mut member: impl FnMut(&mut Self, Text<'a>) -> Scan<()>,
    ) -> Scan<()> {
        self.open(b'{', Wanted::Object, depth)?;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.expected(Wanted::Key));
            }
            let key = self.string()?;
            if self.peek() != Some(b':') {
                return Err(self.expected(Wanted::Colon));
            }
            self.at += 1;
            member(self, key)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.expected(Wanted::NextMember)),
            }
        }
    }

    /// Reads an array, calling `item` for each item; it must read it. `depth`: of the array itself.
    ///
    /// # Errors
    /// When what stands here is not a well-formed array.
    pub fn array(&mut self, depth: usize, mut item: impl FnMut(&mut Self) -> Scan<()>) -> Scan<()> {
        self.open(b'[', Wanted::Array, depth)?;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            item(self)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.expected(Wanted::NextItem)),
            }
        }
    }

    /// Reads any value and hands out its slice. `depth`: of the value, should it be an object or array.
    ///
    /// # Errors
    /// When it is not well formed.
    pub fn value(&mut self, depth: usize) -> Scan<&'a str> {
        self.peek();
        let start = self.at;
        self.skip(depth)?;
        Ok(self.since(start))
    }

    /// Reads a text.
    ///
    /// # Errors
    /// When something else stands here, or it is not well formed.
    pub fn text(&mut self) -> Scan<Text<'a>> {
        match self.peek() {
            Some(b'"') => self.string(),
            _ => Err(self.expected(Wanted::Value)),
        }
    }

    /// The slice from `start` to here.
    #[must_use]
    pub fn since(&self, start: usize) -> &'a str {
        // Both ends stand beside ASCII, so the slice is always there.
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn skip(&mut self, depth: usize) -> Scan<()> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'{') => self.object(depth, |scanner, _| scanner.skip(depth + 1)),
            Some(b'[') => self.array(depth, |scanner| scanner.skip(depth + 1)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            _ => Err(self.expected(Wanted::Value)),
        }
    }

    fn open(&mut self, bracket: u8, what: Wanted, depth: usize) -> Scan<()> {
        if self.peek() != Some(bracket) {
            return Err(self.expected(what));
        }
        if depth > DEPTH_MAX {
            return Err(self.fault(SyntaxKind::TooDeep));
        }
        self.at += 1;
        Ok(())
    }

    fn word(&mut self, word: &'static str) -> Scan<()> {
        for wanted in word.bytes() {
            if self.byte() != Some(wanted) {
                return Err(self.expected(Wanted::Word));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Scan<()> {
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        if self.byte() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.byte(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.byte(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Scan<()> {
        let start = self.at;
        while matches!(self.byte(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start {
            return Err(self.expected(Wanted::Digit));
        }
        Ok(())
    }

    /// Reads a text; stands at its opening quote.
    fn string(&mut self) -> Scan<Text<'a>> {
        let start = self.at;
        let mut escaped = false;
        self.at += 1;
        loop {
            self.at += plain(self.text.as_bytes().get(self.at..).unwrap_or_default());
            match self.byte() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Text {
                        raw: self.since(start),
                        escaped,
                    });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.at += 1;
                    self.escape()?;
                }
                Some(_) => return Err(self.expected(Wanted::Plain)),
                None => return Err(self.fault(SyntaxKind::Ends)),
            }
        }
    }

    /// Reads what follows a backslash.
    fn escape(&mut self) -> Scan<()> {
        match self.byte() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.byte().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                        return Err(self.expected(Wanted::Hex));
                    }
                    self.at += 1;
                }
            }
            _ => return Err(self.expected(Wanted::Escape)),
        }
        Ok(())
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[cold]
    fn expected(&self, what: Wanted) -> SyntaxFault {
        if self.at >= self.text.len() {
            return self.fault(SyntaxKind::Ends);
        }
        self.fault(SyntaxKind::Expected(what))
    }

    #[cold]
    fn fault(&self, kind: SyntaxKind) -> SyntaxFault {
        SyntaxFault { at: self.at, kind }
    }
}

/// How many bytes come before the first that is a quote, a backslash or a control character.
#[inline]
fn plain(bytes: &[u8]) -> usize {
    let (eights, rest) = bytes.as_chunks::<8>();
    for (at, eight) in eights.iter().enumerate() {
        let found = stops(u64::from_le_bytes(*eight));
        if found != 0 {
            return at * 8 + (found.trailing_zeros() / 8) as usize;
        }
    }
    let stops = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
    let in_rest = rest.iter().position(stops).unwrap_or(rest.len());
    bytes.len() - rest.len() + in_rest
}

/// Marks the first of eight bytes (little endian) that ends a run of plain characters: a quote, a
/// backslash or a control character. Zero when there is none; bytes above the first may be marked wrongly.
fn stops(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = ONES << 7;
    // With this bit turned, the quote comes right after the control characters, and they stay among themselves.
    let low = (word ^ (ONES * 0x02)).wrapping_sub(ONES * 0x21);
    let backslash = (word ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
    (low | backslash) & !word & HIGHS
}

/// A place in a JSON text, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
    /// The member it is in, as a JSON pointer, e.g. `/batch/3/properties`; empty at the top.
    pub path: String,
}

/// Finds out where the byte offset `at` is. Slow; only for texts that are refused.
#[must_use]
pub fn place(text: &str, at: usize) -> Place {
    /// Longer paths are cut: a text of 127 nested keys has a path nobody reads.
    const PATH_CHARS_MAX: usize = 200;
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let mut path = String::new();
    for step in steps(before) {
        match step {
            Step::Key(key) => {
                path.push('/');
                path.push_str(&key.replace('~', "~0").replace('/', "~1"));
            }
            Step::Index(index) => path.push_str(&format!("/{index}")),
            Step::NoKey => {}
        }
        if path.chars().count() > PATH_CHARS_MAX {
            path = path.chars().take(PATH_CHARS_MAX).collect();
            path.push('…');
            break;
        }
    }
    Place {
        line: before.bytes().filter(|byte| *byte == b'\n').count() + 1,
        column: before
            .get(line_start..)
            .map_or(0, |line| line.chars().count())
            + 1,
        path,
    }
}

/// One level that is open at a place.
enum Step {
    /// An object whose key has not been read yet.
    NoKey,
    /// In an object, under this key.
    Key(String),
    /// In an array, at this index.
    Index(usize),
}

/// The levels open at the end of `before`, the well-formed beginning of a JSON text.
fn steps(before: &str) -> Vec<Step> {
    let mut open: Vec<Step> = Vec::new();
    let mut scanner = Scanner::new(before);
    // A text directly after `{` or `,` of an object is a key.
    let mut key_next = false;
    while let Some(byte) = scanner.peek() {
        match byte {
            b'{' | b'[' => {
                key_next = byte == b'{';
                open.push(if key_next {
                    Step::NoKey
                } else {
                    Step::Index(0)
                });
                scanner.at += 1;
            }
            b'}' | b']' => {
                open.pop();
                key_next = false;
                scanner.at += 1;
            }
            b',' => {
                match open.last_mut() {
                    Some(Step::Index(index)) => *index += 1,
                    Some(step) => {
                        *step = Step::NoKey;
                        key_next = true;
                    }
                    None => {}
                }
                scanner.at += 1;
            }
            b'"' => {
                let Ok(text) = scanner.string() else { break };
                if std::mem::take(&mut key_next)
                    && let Some(step) = open.last_mut()
                {
                    *step = Step::Key(text.read().unwrap_or_default().into_owned());
                }
            }
            _ => scanner.at += 1,
        }
    }
    open
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn scan(text: &str) -> Result<&str, SyntaxFault> {
        let mut scanner = Scanner::new(text);
        let value = scanner.value(1)?;
        scanner.end()?;
        Ok(value)
    }

    /// serde_json is the judge; `RawValue` reads the grammar without resolving surrogates.
    fn judge(text: &str) -> bool {
        serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok()
    }

    #[test]
    fn takes_what_serde_json_takes_and_nothing_else() {
        for text in [
            "0",
            "-0",
            "01",
            "1.",
            ".5",
            "1e400",
            "1E+2",
            "1e",
            "--1",
            "+1",
            "-",
            "nul",
            "nulll",
            "true",
            "[1,]",
            "[,1]",
            "{,}",
            "{\"a\":1,}",
            "{\"a\" 1}",
            "{a:1}",
            "[1 2]",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\ud83d\"",
            "\"\\u0000\"",
            "\"\u{0}\"",
            "\"tab\there\"",
            "\"",
            "\"\\",
            "",
            " ",
            "[]]",
            "[",
            "{",
            "{\"a\"",
            "{\"a\":",
            "  { \"a\" : [ ] }  ",
            "\u{feff}1",
            "\"exactly8\"",
            "\"é\u{7f}ü漢字🎉 and more of it\"",
            "NaN",
            "Infinity",
            "'a'",
            "/**/1",
            "-0.0e-0",
            "-01",
            "0e",
            "0e+",
            "1e+400",
            "0x1",
            "1_000",
            "{\"a\":1,\"a\":2}",
            "{\"\\u0061\":1}",
            "\"\\udc00\\ud800\"",
            "\"\\uD83D\\uDE00\"",
            "\"\\u{41}\"",
            "\"\\/\\b\\f\"",
            "\"\\a\"",
            "\"\u{1f}\"",
            "\"\u{7f}\u{85}\u{2028}\"",
            "\"1234567\n\"",
            "\"12345678\u{1}\"",
            "[\u{a0}1]",
            "\u{b}1",
            "1\u{0}",
            "[]\u{feff}",
            "[1]\r\n\t ",
        ] {
            assert_eq!(scan(text).is_ok(), judge(text), "{text:?}");
        }
    }

    #[test]
    fn depth_ends_where_a_record_can_still_be_read() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let deepest = nested(DEPTH_MAX);
        assert!(scan(&deepest).is_ok());
        assert!(serde_json::from_str::<Value>(&deepest).is_ok());
        let fault = scan(&nested(DEPTH_MAX + 1)).unwrap_err();
        assert_eq!((fault.at, fault.kind), (DEPTH_MAX, SyntaxKind::TooDeep));
        assert!(scan(&nested(200_000)).is_err(), "and the stack holds");
    }

    #[test]
    fn a_place_names_line_column_and_path() {
        let text = "{\n \"batch\": [1, {\"a/b\": [\"x\", {}, tru]}]}";
        let fault = scan(text).unwrap_err();
        let found = place(text, fault.at);
        assert_eq!(found.path, "/batch/1/a~1b/2");
        assert_eq!((found.line, found.column), (2, 36));
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json_on_valid_and_on_damaged_text(
            value in json(), pretty: bool, cut: prop::sample::Index, put in "[\\PC\"\\\\{}\\[\\],:0-9eu]",
        ) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            prop_assert_eq!(scan(&text), Ok(text.as_str()));
            let mut damaged: Vec<char> = text.chars().collect();
            let at = cut.index(damaged.len());
            damaged.splice(at..=at, put.chars());
            let damaged: String = damaged.into_iter().collect();
            prop_assert_eq!(scan(&damaged).is_ok(), judge(&damaged), "{}", damaged);
            let short: String = text.chars().take(at).collect();
            prop_assert_eq!(scan(&short).is_ok(), judge(&short), "{}", short);
            if let Err(fault) = scan(&damaged) {
                prop_assert!(place(&damaged, fault.at).line >= 1);
            }
        }

        #[test]
        fn no_text_panics(text in any::<String>(), at: usize) {
            prop_assert_eq!(scan(&text).is_ok(), judge(&text));
            prop_assert!(place(&text, at).column >= 1);
        }
    }
}
