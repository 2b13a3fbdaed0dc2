use std::collections::BTreeSet;
use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;
use crate::evaluate::metrics::Summary;

/// A page taken apart: every tag with its attributes, and the text between tags. Panics where an element is not
/// closed, an attribute not quoted, or a `<` stands in text.
#[derive(Debug, Default)]
struct Parsed {
    tags: Vec<(String, Vec<(String, String)>)>,
    text: Vec<String>,
    data: String,
}

fn parse(page: &str) -> Parsed {
    let mut parsed = Parsed::default();
    let mut open: Vec<String> = Vec::new();
    let mut rest = page.strip_prefix("<!DOCTYPE html>").expect("a doctype");
    while let Some(at) = rest.find('<') {
        let text = &rest[..at];
        assert!(!text.contains('>'), "a bare > in {text:?}");
        if !text.trim().is_empty() {
            parsed.text.push(unescape(text.trim()));
        }
        rest = &rest[at + 1..];
        let end = tag_end(rest);
        let (tag, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "closed out of turn");
            continue;
        }
        let (name, attributes) = attributes(tag);
        parsed.tags.push((name.clone(), attributes));
        if tag.ends_with('/') || name == "meta" {
            continue;
        }
        if name == "script" || name == "style" {
            let close = format!("</{name}>");
            let length = rest.find(&close).expect("raw text is closed");
            if name == "script" {
                parsed.data = rest[..length].to_owned();
            }
            rest = &rest[length + close.len()..];
        } else {
            open.push(name);
        }
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "left open: {open:?}");
    parsed
}

fn tag_end(rest: &str) -> usize {
    let mut quoted = false;
    let end = rest.char_indices().find(|(_, character)| {
        quoted ^= *character == '"';
        assert!(quoted || *character != '<', "a < inside a tag");
        *character == '>' && !quoted
    });
    end.expect("a tag is closed").0
}

fn attributes(tag: &str) -> (String, Vec<(String, String)>) {
    let tag = tag.trim_end_matches('/');
    let (name, mut rest) = tag.split_once(' ').unwrap_or((tag, ""));
    assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric()), "tag {name:?}");
    let mut attributes = Vec::new();
    while !rest.is_empty() {
        let (key, value) = rest.split_once("=\"").expect("a quoted attribute");
        let (value, after) = value.split_once('"').expect("a closed attribute");
        assert!(key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "attribute {key:?}");
        assert!(attributes.iter().all(|(known, _)| known != key), "attribute {key} comes twice");
        attributes.push((key.to_owned(), unescape(value)));
        rest = after.trim_start();
    }
    (name.to_owned(), attributes)
}

fn unescape(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        result.push_str(before);
        let (name, after) = after.split_once(';').expect("an entity");
        result.push(match name {
            "lt" => '<',
            "gt" => '>',
            "amp" => '&',
            "quot" => '"',
            "#39" | "apos" => '\'',
            other => panic!("entity {other:?}"),
        });
        rest = after;
    }
    result + rest
}

fn summary(input: &Input) -> Summary {
    let bootstrap = Bootstrap { draws: 5, ..Bootstrap::default() };
    summarise(&input.slices, &input.runs, &bootstrap).unwrap()
}

fn quick(input: &Input) -> String {
    page::page(input, &summary(input), &serde_json::to_string(input).unwrap())
}

fn has(parsed: &Parsed, text: &str) -> bool {
    parsed.text.iter().any(|part| part.contains(text))
}

#[test]
fn page_of_a_small_report_reads_as_agreed() {
    let rendered = render(&fixture::input()).unwrap();
    let text = parse(&rendered.html).text.join("\n");
    let golden = include_str!("golden.txt");
    assert_eq!(text.trim(), golden.trim(), "\n--- the page now reads ---\n{text}\n");
}

#[test]
fn page_needs_nothing_but_itself() {
    let parsed = parse(&render(&fixture::input()).unwrap().html);
    for (tag, attributes) in &parsed.tags {
        assert!(
            !["link", "img", "iframe", "object", "embed", "use", "image", "a"].contains(&tag.as_str()),
            "{tag}"
        );
        for (name, value) in attributes {
            assert!(
                !name.starts_with("on") && !["src", "href", "style"].contains(&name.as_str()),
                "{tag} {name}"
            );
            assert!(!value.contains("url(") || value.starts_with("url(#"), "{value}");
        }
        let kind = attributes.iter().find(|(name, _)| name == "type");
        assert!(tag != "script" || kind.is_some_and(|(_, kind)| kind == "application/json"));
    }
}

#[test]
fn pictures_lie_inside_their_frames() {
    let parsed = parse(&render(&fixture::input()).unwrap().html);
    let ids: Vec<&String> = parsed
        .tags
        .iter()
        .flat_map(|tag| &tag.1)
        .filter(|(name, _)| name == "id")
        .map(|(_, id)| id)
        .collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "ids come twice");
    let mut frame = (0.0, 0.0);
    let (mut pictures, mut numbers) = (0, 0);
    for (tag, attributes) in &parsed.tags {
        let get = |wanted: &str| {
            attributes.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
        };
        if tag == "svg" {
            let view: Vec<f64> =
                get("viewBox").unwrap().split(' ').map(|number| number.parse().unwrap()).collect();
            assert!(view.len() == 4 && view[..2] == [0.0, 0.0] && view[2] > 0.0 && view[3] > 0.0);
            frame = (view[2], view[3]);
            pictures += 1;
        }
        if let Some(clip) = get("clip-path") {
            let id = clip.trim_start_matches("url(#").trim_end_matches(')');
            assert!(ids.iter().any(|known| *known == id));
        }
        for (name, limit) in
            [("x", frame.0), ("cx", frame.0), ("x1", frame.0), ("x2", frame.0), ("width", frame.0)]
                .into_iter()
                .chain([
                    ("y", frame.1),
                    ("cy", frame.1),
                    ("y1", frame.1),
                    ("y2", frame.1),
                    ("height", frame.1),
                ])
        {
            if let Some(value) = get(name) {
                let value: f64 = value.parse().unwrap_or_else(|_| panic!("{tag} {name} {value:?}"));
                assert!((0.0..=limit).contains(&value), "{tag} {name} {value}");
                numbers += 1;
            }
        }
    }
    assert!(pictures > 10 && numbers > 100, "{pictures} {numbers}");
}

#[test]
fn what_was_not_measured_is_called_so() {
    let mut input = fixture::input();
    input.runs[0].points[4].scores[2].documents[3].nats = f64::NAN;
    for point in input.runs.iter_mut().flat_map(|run| &mut run.points) {
        point.scores.remove(1);
    }
    input.runs[1].data_wait = None;
    input.runs[1].prequential.clear();
    let parsed = parse(&quick(&input));
    let count = parsed.text.iter().filter(|text| *text == "not measured").count();
    assert!(count >= 10, "{count}");
    assert!(has(&parsed, "Not measured by any run and in no figure: middle."));
    let whole = parsed.text.join(" ");
    assert!(!whole.contains("NaN") && !whole.contains("inf"), "{whole}");
    for (tag, attributes) in &parsed.tags {
        assert!(
            attributes.iter().all(|(_, value)| !value.contains("NaN") && !value.contains("inf")),
            "{tag}"
        );
    }
}

#[test]
fn averages_stand_beside_the_weights_that_they_are_of() {
    let mut input = fixture::input();
    assert!(!has(&parse(&quick(&input)), "Averages of the weights"), "no run has any");
    // Half a bit better on every document than the method's last weights, of which it has the whole past.
    let last = input.runs[1].points.last().unwrap().scores.clone();
    let better = |score: &input::SliceScore| {
        let mut score = score.clone();
        for document in &mut score.documents {
            document.nats -= 0.5 * document.bytes as f64 * std::f64::consts::LN_2;
        }
        score
    };
    let scored = |weights: &str, scores| input::FinalWeights { weights: weights.into(), scores };
    input.runs[1].final_weights = vec![
        scored("average-120", last.iter().map(better).collect()),
        scored("average-120@0.85", last[..1].to_vec()),
    ];
    let page = parse(&quick(&input));
    let at = page.text.iter().position(|text| text == "Averages of the weights").unwrap();
    let rows: Vec<&str> = page.text[at..].iter().map(String::as_str).collect();
    let place = |text: &str| rows.iter().position(|part| *part == text).unwrap();
    let of = summary(&input);
    let method = of.groups.iter().find(|group| group.label == "replay 25 %").unwrap();
    let mean = method.get(crate::evaluate::metrics::Metric::Mean).unwrap().value;
    let own = place("the last");
    assert_eq!(rows[own - 1..own + 3], ["replay 25 %", "the last", &format!("{mean:.3}"), "\u{2013}"]);
    let average = place("average-120");
    assert_eq!(rows[average + 1..average + 3], [&format!("{:.3}", mean - 0.5)[..], "\u{2212}0.500"]);
    assert_eq!(rows[place("average-120@0.85") + 1], number::UNMEASURED, "not every slice was scored");
    let forgetting =
        |index: usize| of.final_weights[1][index].measures.get(crate::evaluate::metrics::Metric::Forgetting);
    let live = method.get(crate::evaluate::metrics::Metric::Forgetting).unwrap().value;
    assert!((forgetting(0).unwrap() - (live - 0.5)).abs() < 1e-9);

    let twice = input.runs[1].final_weights[0].clone();
    input.runs[1].final_weights.push(twice);
    let error = render(&input).unwrap_err();
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(why, "weights `average-120` comes twice in run `method`");
}

#[test]
fn slice_that_never_arrives_has_no_shaded_stretch() {
    let mut input = fixture::input();
    let bands = |parsed: &Parsed| {
        let of = |tag: &&(String, Vec<(String, String)>)| {
            tag.0 == "rect" && tag.1.iter().any(|(name, value)| name == "class" && value.contains(" band "))
        };
        parsed.tags.iter().filter(of).count()
    };
    assert_eq!(bands(&parse(&quick(&input))), 3);
    input.slices[1].arrival = None;
    let parsed = parse(&quick(&input));
    assert_eq!(bands(&parsed), 2);
    assert!(has(&parsed, "in Latin script; the stream has no text of it"));
}

#[test]
fn report_of_nothing_is_a_page_that_says_so() {
    let rendered = render(&Input { title: "Empty".into(), ..Input::default() }).unwrap();
    let parsed = parse(&rendered.html);
    assert!(has(&parsed, "No run with replay was measured, so replay cannot be judged"));
    assert!(!has(&parsed, "What was ingested") && !has(&parsed, "The runs") && !has(&parsed, "Novelty"));
}

#[test]
fn sums_that_do_not_hold_are_named() {
    let mut input = fixture::input();
    assert!(!has(&parse(&quick(&input)), "The sums do not hold"));
    input.ingested[1].read += 7;
    let parsed = parse(&quick(&input));
    assert!(has(&parsed, "The sums do not hold for new-source: 57 read, 50 accounted for."));
    assert!(has(
        &parsed,
        "162 read = 140 kept (14.0\u{a0}kB) + 11 duplicates + 4 dead letters (which does not add up)."
    ));
}

#[test]
fn runs_on_other_documents_are_refused() {
    let mut input = fixture::input();
    input.runs[1].points[4].scores[0].documents.pop();
    let error = render(&input).unwrap_err();
    assert_eq!(error.to_string(), "the runs cannot be reported together");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(
        source,
        "runs `floor` and `method` cannot be compared on slice `old`: the last evaluation scored document `d11` for \
         `floor` alone"
    );
    assert_eq!((error.kind(), error.hint().is_some()), (Kind::Input, true));
    let mut input = fixture::input();
    input.ingested[1].source = "old-source".into();
    let error = render(&input).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, "source `old-source` comes twice among what was ingested");
}

#[test]
fn json_beside_the_page_and_in_it_gives_the_same_page() {
    let mut input = fixture::input();
    // Numbers that a decimal holds exactly, so that reading them back cannot move a last digit.
    let documents = input.runs.iter_mut().flat_map(|run| &mut run.points).flat_map(|point| &mut point.scores);
    for document in documents.flat_map(|score| &mut score.documents) {
        document.nats = document.nats.round();
    }
    input
        .runs
        .iter_mut()
        .flat_map(|run| &mut run.prequential)
        .for_each(|stretch| stretch.nats_per_token = 3.5);
    input.runs[0].points[1].scores[0].documents[0].nats = f64::INFINITY;
    let first = render(&input).unwrap();
    let again: Input = serde_json::from_str(&first.json).unwrap();
    let embedded: Input = serde_json::from_str(&parse(&first.html).data).unwrap();
    assert!(again.runs[0].points[1].scores[0].documents[0].nats.is_nan());
    assert_eq!(render(&again).unwrap(), first);
    assert_eq!(render(&embedded).unwrap(), first);
    let unknown = first.json.replacen("\"title\"", "\"titel\"", 1);
    assert!(serde_json::from_str::<Input>(&unknown).unwrap_err().to_string().contains("titel"));
}

/// The fixture with every text that a user can choose replaced by `text` of a number.
fn named(text: impl Fn(usize) -> String) -> Input {
    let mut input = fixture::input();
    let mut number = 0;
    let mut next = || {
        number += 1;
        text(number)
    };
    input.title = next();
    for setting in &mut input.settings {
        (setting.name, setting.value) = (next(), next());
    }
    for slice in &mut input.slices {
        let old = std::mem::replace(&mut slice.name, next());
        for point in input.runs.iter_mut().flat_map(|run| &mut run.points) {
            for score in point.scores.iter_mut().filter(|score| score.slice == old) {
                score.slice.clone_from(&slice.name);
            }
        }
        (slice.source, slice.language, slice.from, slice.to) = (next(), next(), next(), next());
    }
    for run in &mut input.runs {
        (run.name, run.label) = (next(), next());
    }
    for source in &mut input.ingested {
        source.source = next();
        source.duplicates = source.duplicates.values().map(|count| (next(), *count)).collect();
        source.dead_letters = source.dead_letters.values().map(|count| (next(), *count)).collect();
    }
    for buffer in &mut input.buffers {
        (buffer.name, buffer.policy, buffer.capacity) = (next(), next(), Some(next()));
        buffer.holds.by_source = buffer.holds.by_source.values().map(|amount| (next(), *amount)).collect();
    }
    if let Some(novelty) = &mut input.novelty {
        novelty.score = next();
    }
    input
}

fn naughty() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        prop::sample::select(vec![
            "</script><script>alert(1)</script>",
            "<!--<script>",
            "\" onload=\"alert(1)",
            "' onclick='x",
            "&lt;b&gt;&amp;&#0;&bogus",
            "]]><![CDATA[",
            "\u{0}\u{7}\u{1b}[31m\u{85}\u{9f}",
            "\u{202e}txet desrever\u{2066}",
            "e\u{301}\u{300}\u{302}\u{303}",
            "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}",
            "{{7*7}} ${x} %s \\u003c",
            "",
            "   \t\n ",
            "\u{fffe}\u{ffff}\u{e000}",
        ])
        .prop_map(str::to_owned),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_text_changes_the_structure_of_the_page(text in naughty()) {
        static PLAIN: OnceLock<Parsed> = OnceLock::new();
        let plain = PLAIN.get_or_init(|| parse(&quick(&named(|number| format!("{number} text")))));
        let input = named(|number| format!("{number}{text}"));
        let page = quick(&input);
        let parsed = parse(&page);
        let shape = |parsed: &Parsed| -> Vec<(String, Vec<String>)> {
            let names = |tag: &[(String, String)]| tag.iter().map(|(name, _)| name.clone()).collect();
            parsed.tags.iter().map(|(tag, attributes)| (tag.clone(), names(attributes))).collect()
        };
        prop_assert_eq!(shape(plain), shape(&parsed));
        let control = |character: char| character.is_control() && !matches!(character, '\n' | '\t');
        let visible = page.split("<script").next().unwrap();
        let turned = ['\u{202e}', '\u{2066}'];
        prop_assert!(!visible.contains(control) && !visible.contains(turned));
        let embedded: Input = serde_json::from_str(&parsed.data).unwrap();
        prop_assert_eq!(embedded.title, input.title);
        prop_assert_eq!(&embedded.runs[0].label, &input.runs[0].label);
    }
}
