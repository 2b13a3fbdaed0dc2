//! Which scores there are.

use std::fmt::Write as _;

use super::{Entry, novelty};

/// Every score, in the order in which the stage runs them.
pub const CATALOGUE: &[Entry] = &[novelty::unseen::ENTRY, novelty::distance::ENTRY];

/// The score of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Entry> {
    CATALOGUE.iter().find(|entry| entry.name == name)
}

/// Why `name` is refused: what was probably meant, and the names there are.
#[must_use]
pub fn unknown(name: &str) -> String {
    let names: Vec<String> = CATALOGUE.iter().map(|entry| format!("`{}`", entry.name)).collect();
    let mut text = format!("names `{name}`, which is no score; the scores are {}", names.join(", "));
    let near = CATALOGUE.iter().map(|entry| (strsim::levenshtein(name, entry.name), entry.name)).min();
    if let Some((edits, near)) = near
        && edits <= 2
    {
        let _ = write!(text, " (did you mean `{near}`?)");
    }
    text
}

/// The catalogue as `--help` prints it.
#[must_use]
pub fn help() -> String {
    let mut text = String::from("Scores (`score.enabled`):\n");
    for entry in CATALOGUE {
        let columns: Vec<&str> = entry.columns.iter().map(|column| column.name).collect();
        let _ = writeln!(text, "  {:<10} {} [{}]", entry.name, entry.summary, columns.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_and_columns_are_given_once() {
        let names: BTreeSet<&str> = CATALOGUE.iter().map(|entry| entry.name).collect();
        assert_eq!(names.len(), CATALOGUE.len());
        let columns: Vec<&str> =
            CATALOGUE.iter().flat_map(|entry| entry.columns).map(|column| column.name).collect();
        assert_eq!(columns.iter().collect::<BTreeSet<_>>().len(), columns.len());
        let schema = perennial_schemas::table::records::schema();
        assert!(columns.iter().all(|column| schema.field_with_name(column).is_ok()), "{columns:?}");
    }

    #[test]
    fn unknown_name_is_answered_with_the_nearest_and_the_list() {
        let text = unknown("distence");
        assert!(text.contains("did you mean `distance`") && text.contains("`unseen`"), "{text}");
        assert!(!unknown("perplexity").contains("did you mean"));
    }

    #[test]
    fn methods_page_has_a_row_for_each_score_with_its_columns() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/methods.md");
        let page = std::fs::read_to_string(page).unwrap();
        for entry in CATALOGUE {
            let columns: Vec<String> =
                entry.columns.iter().map(|column| format!("`{}`", column.name)).collect();
            let row = format!("| `{}` | {} |", entry.name, columns.join(", "));
            assert!(page.contains(&row), "docs/methods.md has no row {row}");
        }
    }
}
