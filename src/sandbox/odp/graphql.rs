//! The one GraphQL question the SDKs ask ODP: which of these segments is a customer in. Reads the query by its
//! tokens, with literals or variables. Pure.

use serde_json::{Value, json};

use super::{Odp, Policies, UnknownUser};
use crate::sandbox::book::Marks;
use crate::sandbox::exchange::{Ask, Reply};

/// A piece of a query.
#[derive(Debug, Clone, PartialEq)]
enum Token {
    Name(String),
    Text(String),
    Variable(String),
    Sign(char),
}

impl Odp {
    pub(super) fn graphql(
        &mut self,
        ask: &Ask<'_>,
        policies: &Policies,
        marks: &mut Marks,
    ) -> Reply {
        let none = Value::Null;
        let body = ask.json.as_ref().unwrap_or(&none);
        let Some(query) = body["query"].as_str() else {
            marks.refused("OD8", "no query");
            return Reply::json(400, &json!({"errors": [{"message": "no query"}]}));
        };
        let Some((name, value, subset)) = question(query, &body["variables"]) else {
            marks.refused("OD8", "a query the sandbox does not read");
            let message = "the sandbox reads only customer(…) { audiences(subset: […]) { edges { node { name state } } } }";
            return Reply::json(
                200,
                &json!({"data": null, "errors": [{"message": message}]}),
            );
        };
        let profile = self.people.find(&name, &value);
        if profile.is_none() && policies.unknown_user == UnknownUser::Error {
            marks.refused("OD8", "a customer ODP does not know");
            let message = format!(
                "Exception while fetching data (/customer) : could not resolve _{name} = {value}"
            );
            let extensions = json!({
                "code": "INVALID_IDENTIFIER_EXCEPTION", "classification": "DataFetchingException",
            });
            return Reply::json(
                200,
                &json!({
                    "data": {"customer": null},
                    "errors": [{"message": message, "path": ["customer"], "extensions": extensions}],
                }),
            );
        }
        let asked: Vec<String> = subset.unwrap_or_else(|| self.segments.keys().cloned().collect());
        let edges: Vec<Value> = asked
            .iter()
            .map(|segment| {
                let is_in = profile
                    .and_then(|profile| profile.segments.get(segment))
                    .is_some_and(|(is_in, _)| *is_in);
                let state = if is_in { "qualified" } else { "not_qualified" };
                json!({"node": {"name": segment, "state": state}})
            })
            .collect();
        Reply::json(
            200,
            &json!({"data": {"customer": {"audiences": {"edges": edges}}}}),
        )
    }
}

/// Identifier, its value, and the segments asked for.
type Question = (String, String, Option<Vec<String>>);

fn question(query: &str, variables: &Value) -> Option<Question> {
    let tokens = tokens(query)?;
    let at = |name: &str| {
        tokens
            .iter()
            .position(|token| *token == Token::Name(name.to_owned()))
    };
    let [
        Token::Sign('('),
        Token::Name(name),
        Token::Sign(':'),
        value,
        ..,
    ] = tokens.get(at("customer")? + 1..)?
    else {
        return None;
    };
    let value = match value {
        Token::Text(text) => text.clone(),
        Token::Variable(variable) => variables[variable.as_str()].as_str()?.to_owned(),
        _ => return None,
    };
    let subset = match tokens.get(at("audiences")? + 1..)? {
        [
            Token::Sign('('),
            Token::Name(word),
            Token::Sign(':'),
            rest @ ..,
        ] if word == "subset" => Some(names(rest, variables)?),
        _ => None,
    };
    Some((name.clone(), value, subset))
}

/// A list of texts, or the variable that holds one.
fn names(tokens: &[Token], variables: &Value) -> Option<Vec<String>> {
    match tokens {
        [Token::Variable(variable), ..] => variables[variable.as_str()]
            .as_array()?
            .iter()
            .map(|name| name.as_str().map(str::to_owned))
            .collect(),
        [Token::Sign('['), rest @ ..] => rest
            .iter()
            .take_while(|token| **token != Token::Sign(']'))
            .map(|token| match token {
                Token::Text(text) => Some(text.clone()),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

/// The query's tokens; none when a text does not end.
fn tokens(query: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = query;
    while let Some(first) = rest.chars().next() {
        if first.is_whitespace() || first == ',' {
            rest = &rest[first.len_utf8()..];
        } else if first == '"' {
            let mut texts = serde_json::Deserializer::from_str(rest).into_iter::<String>();
            let text = texts.next()?.ok()?;
            let used = texts.byte_offset();
            tokens.push(Token::Text(text));
            rest = rest.get(used..)?;
        } else if first == '$' || is_word(first) {
            let start = usize::from(first == '$');
            let word: String = rest[start..]
                .chars()
                .take_while(|char| is_word(*char))
                .collect();
            rest = rest.get(start + word.len()..)?;
            tokens.push(if first == '$' {
                Token::Variable(word)
            } else {
                Token::Name(word)
            });
        } else {
            tokens.push(Token::Sign(first));
            rest = &rest[first.len_utf8()..];
        }
    }
    Some(tokens)
}

fn is_word(char: char) -> bool {
    char.is_ascii_alphanumeric() || char == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_variables_ask_the_same() {
        let literal = r#"query {customer(fs_user_id : "t\"om") {audiences(subset: ["a","b"]) {edges {node {name state}}}}}"#;
        let variable = "query($userId: String, $audiences: [String]) {customer(fs_user_id: $userId) \
                        {audiences(subset: $audiences) {edges {node {name state}}}}}";
        let variables = json!({"userId": "t\"om", "audiences": ["a", "b"]});
        let expected = Some((
            "fs_user_id".to_owned(),
            "t\"om".to_owned(),
            Some(vec!["a".to_owned(), "b".to_owned()]),
        ));
        assert_eq!(question(literal, &Value::Null), expected);
        assert_eq!(question(variable, &variables), expected);
        assert_eq!(question("query {customer(vuid: \"x", &Value::Null), None);
    }
}
