//! What `cargo deny check licenses sources bans` checks of `deny.toml`, as far as it needs no program to install
//! and no network: the licence and the source of every crate in the build, and the crates that are refused.

use std::process::Command;

use serde_json::Value;
use toml::Table;

use super::Problem;

/// The lists of `deny.toml`.
pub struct Policy {
    licences: Vec<String>,
    registries: Vec<String>,
    refused: Vec<String>,
}

impl Policy {
    /// # Panics
    /// Where a list is missing: the file would check nothing.
    pub fn read(text: &str) -> Self {
        let table: Table = text.parse().expect("deny.toml is TOML");
        let list = |section: &str, key: &str| table[section][key].as_array().expect("a list").clone();
        let text_of = |value: &toml::Value| value.as_str().expect("a string").to_owned();
        let name_of = |value: &toml::Value| value["crate"].as_str().expect("the name of a crate").to_owned();
        Self {
            licences: list("licenses", "allow").iter().map(text_of).collect(),
            registries: list("sources", "allow-registry").iter().map(text_of).collect(),
            refused: list("bans", "deny")
                .iter()
                .filter(|ban| ban.get("wrappers").is_none())
                .map(name_of)
                .collect(),
        }
    }

    /// Whether an SPDX expression (and the older form with `/` for `OR`) can be met with licences of the list.
    fn permits(&self, expression: &str) -> bool {
        let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
        let words: Vec<&str> = spaced.split_whitespace().collect();
        let mut rest = words.as_slice();
        let permitted = self.any(&mut rest);
        permitted && rest.is_empty()
    }

    /// `a OR b OR ..`; takes its words from the front of `rest`.
    fn any(&self, rest: &mut &[&str]) -> bool {
        let mut permitted = self.all(rest);
        while let ["OR", after @ ..] = *rest {
            *rest = after;
            permitted |= self.all(rest);
        }
        permitted
    }

    /// `a AND b AND ..`, which binds tighter.
    fn all(&self, rest: &mut &[&str]) -> bool {
        let mut permitted = self.one(rest);
        while let ["AND", after @ ..] = *rest {
            *rest = after;
            permitted &= self.one(rest);
        }
        permitted
    }

    /// A licence, a licence with an exception, or an expression in parentheses.
    fn one(&self, rest: &mut &[&str]) -> bool {
        match *rest {
            ["(", after @ ..] => {
                *rest = after;
                let permitted = self.any(rest);
                let closed = matches!(*rest, [")", ..]);
                *rest = rest.get(1..).unwrap_or_default();
                permitted && closed
            }
            [licence, "WITH", exception, after @ ..] => {
                *rest = after;
                self.licences.iter().any(|allowed| *allowed == format!("{licence} WITH {exception}"))
            }
            [licence, after @ ..] => {
                *rest = after;
                self.licences.iter().any(|allowed| allowed == licence)
            }
            [] => false,
        }
    }

    /// What is wrong with the packages that `cargo metadata` lists, one problem for each.
    pub fn problems(&self, metadata: &Value) -> Vec<Problem> {
        let packages = metadata["packages"].as_array().expect("a list of packages");
        packages.iter().filter_map(|package| self.problem(package)).collect()
    }

    fn problem(&self, package: &Value) -> Option<Problem> {
        let name = format!("{} {}", package["name"].as_str()?, package["version"].as_str()?);
        let licence = package["license"].as_str().unwrap_or("none");
        let wrong = |what: String| Some(Problem::new("Cargo.lock", 1, what));
        if !self.permits(licence) {
            return wrong(format!("`{name}` has the licence `{licence}`, which deny.toml does not allow"));
        }
        if self.refused.iter().any(|refused| package["name"] == refused.as_str()) {
            return wrong(format!("`{name}` is refused by deny.toml"));
        }
        // Our own crates have no source.
        let source = package["source"].as_str()?;
        let is_allowed = self.registries.iter().any(|registry| source == format!("registry+{registry}"));
        if is_allowed {
            None
        } else {
            wrong(format!("`{name}` is from `{source}`, not from a registry of deny.toml"))
        }
    }
}

/// The packages of a build for the platform that is supported. Others are in the lock file too, and cargo
/// downloads none of them.
pub fn packages() -> Value {
    let arguments = ["metadata", "--locked", "--offline", "--format-version", "1"];
    let platform = ["--filter-platform", "x86_64-unknown-linux-gnu"];
    let mut command = Command::new(env!("CARGO"));
    let output = command.current_dir(perennial_tests::root()).args(arguments).args(platform).output();
    let output = output.expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo prints JSON")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy() -> Policy {
        Policy::read(
            "[licenses]\nallow = [\"MIT\", \"ISC\", \"Apache-2.0 WITH LLVM-exception\"]\n\
             [sources]\nallow-registry = [\"https://good\"]\n\
             [bans]\ndeny = [{ crate = \"bad\" }, { crate = \"some\", wrappers = [\"one\"] }]\n",
        )
    }

    #[test]
    fn expressions_are_met_by_the_licences_of_the_list_alone() {
        let policy = policy();
        for good in
            ["MIT", "GPL-3.0/MIT", "GPL-3.0 OR MIT", "(GPL-3.0 OR MIT) AND ISC", "GPL-3.0 AND X OR ISC"]
        {
            assert!(policy.permits(good), "{good}");
        }
        assert!(policy.permits("Apache-2.0 WITH LLVM-exception"));
        for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0", "(MIT", "MIT ISC", "MIT WITH x"] {
            assert!(!policy.permits(bad), "{bad}");
        }
    }

    #[test]
    fn package_is_reported_for_its_licence_its_source_or_its_name() {
        let package = |name: &str, license: Value, source: Value| json!({"name": name, "version": "1.0.0", "license": license, "source": source});
        let here = || json!("registry+https://good");
        let problems = |package: Value| policy().problems(&json!({"packages": [package]}));
        assert_eq!(problems(package("a", json!("MIT"), here())), []);
        assert_eq!(problems(package("ours", json!("MIT"), Value::Null)), []);
        assert_eq!(problems(package("some", json!("MIT"), here())), []);
        for wrong in [
            package("a", json!("GPL-3.0"), here()),
            package("a", Value::Null, here()),
            package("a", json!("MIT"), json!("git+https://good")),
            package("bad", json!("MIT"), here()),
        ] {
            assert_eq!(problems(wrong.clone()).len(), 1, "{wrong}");
        }
    }
}
