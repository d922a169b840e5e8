//! `aqueduct token create|list|revoke`: admin tokens of a data directory, with or without a running gateway.
//!
//! Whoever may write the data directory may administer. A running gateway takes a change over with its next
//! request; both sides only touch the database, so neither needs the other.

use std::path::Path;

use crate::clock::SharedClock;
use crate::registry::Role;
use crate::registry::random::Random;
use crate::registry::tokens_only::{TokenError, TokenStore};

/// What to do with admin tokens.
#[derive(Debug, clap::Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it, once.
    Create {
        /// Whose it is, for people.
        #[arg(long)]
        name: String,
        /// What it may do.
        #[arg(long, value_enum, default_value = "admin")]
        role: Role,
    },
    /// List the tokens, without their secret half.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Revoke a token; the next request with it is refused.
    Revoke {
        /// Its id: `adm_…`, without the secret half.
        id: String,
    },
}

/// Does it, and returns what to print.
///
/// # Errors
/// When there is no registry in `data_dir`, the name or the id cannot be used, or the database fails.
pub fn run(
    command: &TokenCommand,
    data_dir: &Path,
    clock: &SharedClock,
    random: &Random,
) -> Result<String, TokenError> {
    let mut tokens = TokenStore::open(data_dir, clock)?;
    match command {
        TokenCommand::Create { name, role } => {
            let token = tokens.create(name, *role, random)?;
            Ok(token.expose().to_owned())
        }
        TokenCommand::List { json } => {
            let rows = tokens.list()?;
            if *json {
                let rows: Vec<_> = rows
                    .iter()
                    .map(|row| {
                        serde_json::json!({
                            "id": row.id, "name": row.name, "role": row.role,
                            "created_at_ms": row.created_at_ms, "expires_at_ms": row.expires_at_ms,
                            "revoked_at_ms": row.revoked_at_ms,
                        })
                    })
                    .collect();
                return Ok(serde_json::Value::from(rows).to_string());
            }
            let width = |of: fn(&crate::registry::store::TokenRow) -> usize| {
                rows.iter().map(of).max().unwrap_or(0)
            };
            let (id, role) = (width(|row| row.id.len()), width(|row| row.role.len()));
            let lines: Vec<_> = rows
                .iter()
                .map(|row| {
                    let state = match (row.revoked_at_ms, row.expires_at_ms) {
                        (Some(_), _) => "revoked",
                        (None, Some(at)) if at <= clock.now_ms() => "expired",
                        _ => "live",
                    };
                    format!(
                        "{:id$}  {:role$}  {state:7}  {}",
                        row.id, row.role, row.name
                    )
                })
                .collect();
            Ok(lines.join("\n"))
        }
        TokenCommand::Revoke { id } => {
            tokens.revoke(id)?;
            Ok(format!("{id} is revoked"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{TokenCommand, run};
    use crate::clock::{ManualClock, SharedClock};
    use crate::registry::Role;
    use crate::registry::random::Random;
    use crate::registry::store::Store;

    #[test]
    fn a_token_is_made_listed_and_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let clock: SharedClock = ManualClock::at(1_000);
        let random = Random::system();
        let run = |command: TokenCommand| run(&command, dir.path(), &clock, &random);

        let missing = run(TokenCommand::List { json: false }).unwrap_err();
        assert!(missing.to_string().contains("control.db"), "{missing}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);

        drop(Store::open(dir.path(), 0).unwrap());
        let token = run(TokenCommand::Create {
            name: "ci".to_owned(),
            role: Role::Operator,
        })
        .unwrap();
        let id = token.rsplit_once('_').unwrap().0.to_owned();
        let list = run(TokenCommand::List { json: false }).unwrap();
        assert_eq!(list, format!("{id}  operator  live     ci"));
        assert!(!list.contains(&token));
        run(TokenCommand::Revoke { id: id.clone() }).unwrap();
        assert!(
            run(TokenCommand::List { json: false })
                .unwrap()
                .contains("revoked")
        );
        assert!(run(TokenCommand::Revoke { id }).is_err());
        assert!(
            run(TokenCommand::Create {
                name: "a\nb".to_owned(),
                role: Role::Viewer
            })
            .is_err()
        );
    }
}
