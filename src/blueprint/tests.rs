//! The language as a whole: shipped blueprints, golden payloads, checking, mapping.

use super::{builtin, check, render};

#[test]
fn shipped_blueprints_check_without_a_remark() {
    for (path, text) in builtin() {
        let checked = check(text);
        assert!(
            checked.diagnostics.is_empty(),
            "{}",
            render(path, text, &checked.diagnostics)
        );
        let blueprint = checked.blueprint.expect("it checked clean");
        assert_eq!(
            format!("{}/{}", blueprint.vendor(), blueprint.variant()),
            *path
        );
    }
}
