//! What stands at each key when nobody writes it.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::fields::{ANY, Key, Listed, Shape};
use super::tree::{Node, Origin, Step, Value};
use super::{encode, read, show};

/// Every key that `T` knows, in the order of its fields: `store.url`, `source[].path`,
/// `buffer.<name>.capacity`, `policy.*`.
#[must_use]
pub fn keys<T: DeserializeOwned + Serialize>() -> Vec<Key> {
    let absent = effective::<T>(&Node::table(Origin::Default));
    let full = |key: Listed| {
        let default = default_at::<T>(absent.as_ref(), &key.path);
        Key { name: key.name, kind: key.kind, default }
    };
    Shape::of::<T>().keys().into_iter().map(full).collect()
}

/// The effective configuration of what `tree` writes; nothing where `T` refuses it.
pub(super) fn effective<T: DeserializeOwned + Serialize>(tree: &Node) -> Option<Node> {
    encode::encode(&read::read::<T>(tree, &[]).ok()?).ok()
}

/// The default at `path`; `absent` is the configuration that nobody wrote.
fn default_at<T: DeserializeOwned + Serialize>(absent: Option<&Node>, path: &[Step]) -> Option<String> {
    let is_open = |step: &Step| match step {
        Step::Index(_) => true,
        Step::Key(key) => key == ANY,
    };
    let Some(last) = path.iter().rposition(is_open) else { return said(absent?.get(path)?) };
    if last + 1 == path.len() {
        return said(absent?.get(path.get(..last)?)?);
    }
    // Inside of an element or a named table: what one has in which nothing is written.
    let leaf = Node::table(Origin::Default);
    let bare = path.get(..=last)?.iter().rev().fold(leaf, |inner, step| match step {
        Step::Index(_) => Node { at: Origin::Default, value: Value::Array(vec![inner]) },
        Step::Key(key) => Node::chain(std::slice::from_ref(key), inner.value, &Origin::Default),
    });
    said(effective::<T>(&bare)?.get(path)?)
}

/// A value as TOML; nothing for an absent option and for a table without entries.
fn said(node: &Node) -> Option<String> {
    let is_empty =
        node.entries().is_some_and(|entries| entries.values().all(|node| node.value == Value::Gone));
    (!is_empty && node.value != Value::Gone).then(|| show::inline(node))
}
