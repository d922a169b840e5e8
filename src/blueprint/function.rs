//! The closed list of functions: names, numbers of arguments, and what kinds of values they take and give.

/// A function of the language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fun {
    First,
    If,
    Required,
    Is,
    Present,
    Not,
    All,
    Any,
    MoreThan,
    LessThan,
    Within,
    StartsWith,
    Digits,
    OrNull,
    Text,
    Lower,
    Upper,
    Trim,
    Join,
    Slug,
    Clean,
    Cut,
    Identifier,
    Kind,
    Json,
    Split,
    Numbers,
    Pairs,
    Get,
    After,
    Number,
    JsInteger,
    JsNumber,
    Count,
    Sum,
    Cents,
    MinorUnits,
    EpochMs,
    EpochS,
    Iso8601,
    Date,
    Pick,
    Omit,
    Scalars,
    Flatten,
    Sha256,
    Lookup,
    Basic,
}

/// What a value is, as far as it can be known before there is an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Any,
    Text,
    Number,
    YesNo,
    Group,
    List,
}

impl Type {
    /// For messages: "userId is a text".
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Any => "anything",
            Self::Text => "a text",
            Self::Number => "a number",
            Self::YesNo => "true or false",
            Self::Group => "a group",
            Self::List => "a list",
        }
    }
}

/// What an argument may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    Any,
    /// Text, number, true or false.
    Scalar,
    /// A number, or a text that reads as one.
    Numeric,
    YesNo,
    List,
    Group,
    /// A point in time: a text or a number.
    Time,
    /// A text written here: the name of a field.
    Name,
    /// A text written here.
    Written,
    /// A table's name.
    Table,
}

impl Takes {
    /// Whether a value that is surely of `given` can be meant.
    pub(crate) fn allows(self, given: Type) -> bool {
        match self {
            Self::Any | Self::Name | Self::Written | Self::Table => true,
            _ if given == Type::Any => true,
            Self::Scalar => !matches!(given, Type::Group | Type::List),
            Self::Numeric | Self::Time => matches!(given, Type::Number | Type::Text),
            Self::YesNo => given == Type::YesNo,
            Self::List => given == Type::List,
            Self::Group => given == Type::Group,
        }
    }

    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Any => "anything",
            Self::Scalar => "a single value",
            Self::Numeric => "a number",
            Self::YesNo => "true or false",
            Self::List => "a list",
            Self::Group => "a group",
            Self::Time => "a time",
            Self::Name => "a field's name in quotes",
            Self::Written => "a text in quotes",
            Self::Table => "a table's name",
        }
    }
}

/// How a function is called.
#[derive(Debug)]
pub(crate) struct Signature {
    pub(crate) fun: Fun,
    pub(crate) name: &'static str,
    pub(crate) least: usize,
    pub(crate) most: usize,
    /// What the arguments may be; the last repeats.
    pub(crate) takes: &'static [Takes],
    pub(crate) gives: Type,
    /// For messages: `cents(amount)`.
    pub(crate) usage: &'static str,
}

const MANY: usize = 64;

const fn row(
    fun: Fun,
    name: &'static str,
    least: usize,
    most: usize,
    takes: &'static [Takes],
    gives: Type,
    usage: &'static str,
) -> Signature {
    Signature {
        fun,
        name,
        least,
        most,
        takes,
        gives,
        usage,
    }
}

/// All functions. `first`, `if` and `required` give what they are given.
#[rustfmt::skip]
pub(crate) const FUNCTIONS: &[Signature] = &[
    row(Fun::First, "first", 2, MANY, &[Takes::Any], Type::Any, "first(a, b, …)"),
    row(Fun::If, "if", 2, 3, &[Takes::YesNo, Takes::Any], Type::Any, "if(test, a, b)"),
    row(Fun::Required, "required", 1, 2, &[Takes::Any, Takes::Written], Type::Any, "required(x) or required(x, \"reason\")"),
    row(Fun::Is, "is", 2, MANY, &[Takes::Scalar], Type::YesNo, "is(x, a, …)"),
    row(Fun::Present, "present", 1, 1, &[Takes::Any], Type::YesNo, "present(x)"),
    row(Fun::Not, "not", 1, 1, &[Takes::YesNo], Type::YesNo, "not(test)"),
    row(Fun::All, "all", 1, MANY, &[Takes::YesNo], Type::YesNo, "all(test, …)"),
    row(Fun::Any, "any", 1, MANY, &[Takes::YesNo], Type::YesNo, "any(test, …)"),
    row(Fun::MoreThan, "more_than", 2, 2, &[Takes::Numeric], Type::YesNo, "more_than(x, n)"),
    row(Fun::LessThan, "less_than", 2, 2, &[Takes::Numeric], Type::YesNo, "less_than(x, n)"),
    row(Fun::Within, "within", 2, 2, &[Takes::Any, Takes::Numeric], Type::Any, "within(x, n)"),
    row(Fun::StartsWith, "starts_with", 2, 2, &[Takes::Scalar], Type::YesNo, "starts_with(x, \"start\")"),
    row(Fun::Digits, "digits", 1, 1, &[Takes::Scalar], Type::Text, "digits(x)"),
    row(Fun::OrNull, "or_null", 1, 1, &[Takes::Any], Type::Any, "or_null(x)"),
    row(Fun::Text, "text", 1, 1, &[Takes::Scalar], Type::Text, "text(x)"),
    row(Fun::Lower, "lower", 1, 1, &[Takes::Scalar], Type::Text, "lower(x)"),
    row(Fun::Upper, "upper", 1, 1, &[Takes::Scalar], Type::Text, "upper(x)"),
    row(Fun::Trim, "trim", 1, 2, &[Takes::Scalar], Type::Text, "trim(x) or trim(x, \"_\")"),
    row(Fun::Join, "join", 2, 2, &[Takes::List, Takes::Scalar], Type::Text, "join(list, \", \")"),
    row(Fun::Slug, "slug", 1, 1, &[Takes::Scalar], Type::Text, "slug(x)"),
    row(Fun::Clean, "clean", 3, 3, &[Takes::Scalar, Takes::Written, Takes::Scalar], Type::Text, "clean(x, \"a-z0-9_\", \"_\")"),
    row(Fun::Cut, "cut", 2, 2, &[Takes::Scalar, Takes::Numeric], Type::Text, "cut(x, 100)"),
    row(Fun::Identifier, "identifier", 2, 2, &[Takes::Scalar, Takes::Numeric], Type::Text, "identifier(x, 64)"),
    row(Fun::Kind, "kind", 1, 1, &[Takes::Any], Type::Text, "kind(x)"),
    row(Fun::Json, "json", 1, 1, &[Takes::Any], Type::Text, "json(x)"),
    row(Fun::Numbers, "numbers", 1, 1, &[Takes::List], Type::List, "numbers(list)"),
    row(Fun::Split, "split", 2, 2, &[Takes::Scalar], Type::List, "split(x, \",\")"),
    row(Fun::Pairs, "pairs", 1, 1, &[Takes::Scalar], Type::Group, "pairs(x)"),
    row(Fun::Get, "get", 2, 2, &[Takes::Group, Takes::Scalar], Type::Any, "get(group, key)"),
    row(Fun::After, "after", 2, 2, &[Takes::Scalar], Type::Text, "after(x, \"start\")"),
    row(Fun::Number, "number", 1, 1, &[Takes::Numeric], Type::Number, "number(x)"),
    row(Fun::JsInteger, "js_integer", 1, 1, &[Takes::Any], Type::Number, "js_integer(x)"),
    row(Fun::JsNumber, "js_number", 1, 1, &[Takes::Any], Type::Any, "js_number(x)"),
    row(Fun::Count, "count", 1, 1, &[Takes::List], Type::Number, "count(list)"),
    row(Fun::Sum, "sum", 2, 4, &[Takes::List, Takes::Name], Type::Number, "sum(list, \"price\", \"quantity\")"),
    row(Fun::Cents, "cents", 1, 1, &[Takes::Numeric], Type::Number, "cents(amount)"),
    row(Fun::MinorUnits, "minor_units", 2, 2, &[Takes::Numeric, Takes::Scalar], Type::Number, "minor_units(amount, currency)"),
    row(Fun::EpochMs, "epoch_ms", 1, 1, &[Takes::Time], Type::Number, "epoch_ms(time)"),
    row(Fun::EpochS, "epoch_s", 1, 1, &[Takes::Time], Type::Number, "epoch_s(time)"),
    row(Fun::Iso8601, "iso8601", 1, 1, &[Takes::Time], Type::Text, "iso8601(time)"),
    row(Fun::Date, "date", 1, 1, &[Takes::Time], Type::Text, "date(time)"),
    row(Fun::Pick, "pick", 2, MANY, &[Takes::Group, Takes::Name], Type::Group, "pick(group, \"a\", …)"),
    row(Fun::Omit, "omit", 2, MANY, &[Takes::Group, Takes::Name], Type::Group, "omit(group, \"a\", …)"),
    row(Fun::Scalars, "scalars", 1, 1, &[Takes::Group], Type::Group, "scalars(group)"),
    row(Fun::Flatten, "flatten", 2, 2, &[Takes::Group, Takes::Name], Type::Group, "flatten(group, \"_\")"),
    row(Fun::Sha256, "sha256", 1, 1, &[Takes::Scalar], Type::Text, "sha256(x)"),
    row(Fun::Lookup, "lookup", 2, 2, &[Takes::Table, Takes::Scalar], Type::Any, "lookup(table, key)"),
    row(Fun::Basic, "basic", 2, 2, &[Takes::Scalar], Type::Text, "basic(user, password)"),
];

/// The function of this name.
pub(crate) fn named(name: &str) -> Option<&'static Signature> {
    FUNCTIONS.iter().find(|signature| signature.name == name)
}
