use super::*;
use proptest::prelude::*;

fn names(text: &str) -> Vec<String> {
    text.parse::<NodeSet>().unwrap().names().collect()
}

#[test]
fn ranges_steps_and_padding_expand() {
    for (text, expected) in [
        ("node1", &["node1"][..]),
        ("node[01-04,7]", &["node01", "node02", "node03", "node04", "node7"]),
        ("n[1-9/3]", &["n1", "n4", "n7"]),
        ("n[8-11]", &["n8", "n9", "n10", "n11"]),
        ("n[098-101]", &["n098", "n099", "n100", "n101"]),
        ("n[01-1,1]", &["n1", "n01"]),
        ("r[1-2]n[1-2]", &["r1n1", "r1n2", "r2n1", "r2n2"]),
        ("b, a", &["a", "b"]),
        ("n[1-5]!n[2-3]", &["n1", "n4", "n5"]),
        ("n[1-5]&n[4-9]", &["n4", "n5"]),
        ("n[1-3]^n[3-4]", &["n1", "n2", "n4"]),
        ("n1!n1,n2", &["n2"]),
        ("a-b.c_d", &["a-b.c_d"]),
        ("n1!n1", &[]),
    ] {
        let (mut found, mut wanted) = (names(text), expected.to_vec());
        found.sort();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{text}");
    }
}

#[test]
fn people_count_so() {
    assert_eq!(names("n10,n9,m100,n09"), ["m100", "n9", "n09", "n10"]);
}

#[test]
fn printing_folds() {
    for (text, folded) in [
        ("n1,n2,n3", "n[1-3]"),
        ("n1,n3", "n[1,3]"),
        ("n08,n09,n10", "n[08-10]"),
        ("n8,n9,n10", "n[8-10]"),
        ("n1,n01,n2,n02", "n[1-2,01-02]"),
        ("n[01-100]", "n[01-100]"),
        ("rack[1-3]n[01-40]", "rack[1-3]n[01-40]"),
        ("rack1n1,rack1n2,rack2n1", "rack1n[1-2],rack2n1"),
        ("gate,n1,n2.lab", "gate,n1,n2.lab"),
        (
            "n12345678901234567890,n12345678901234567891",
            "n12345678901234567890,n12345678901234567891",
        ),
    ] {
        assert_eq!(text.parse::<NodeSet>().unwrap().to_string(), folded, "{text}");
    }
    assert_eq!(NodeSet::default().to_string(), "");
}

#[test]
fn mistakes_are_named_with_their_place() {
    for (text, at, part) in [
        ("", 1, "a name is missing"),
        ("n1,", 3, "a name is missing"),
        ("n[1-", 4, "a number"),
        ("n[1", 3, "not closed"),
        ("n[1-2;3]", 6, "';' in brackets"),
        ("n[5-2]", 5, "ends before it begins"),
        ("n[1-010]", 7, "leading zeros"),
        ("n[1-9/0]", 7, "step of 0"),
        ("n[0-99999]", 9, "more than 65536"),
        ("n[1-300]m[1-300]", 15, "more than 65536"),
        ("@all", 1, "a name is missing"),
        ("n1 n2", 4, "'n' cannot be in a name"),
        ("n*", 2, "'*' cannot be"),
        ("n[99999999999999999999]", 2, "1 to 18 digits"),
    ] {
        let error = text.parse::<NodeSet>().unwrap_err();
        assert!(error.what.contains(part) && error.at == at, "{text}: {error}");
    }
    let rows = format!("{}[0-65535]", "a1".repeat(20)).parse::<NodeSet>().unwrap_err();
    assert!(rows.what.contains("runs of letters and digits"), "{rows}");
    let long = "n".repeat(300).parse::<NodeSet>().unwrap_err();
    assert!(long.what.contains("255"), "{long}");
}

#[test]
fn names_of_many_parts_cost_no_more_than_their_text() {
    // 4 to the power of 7 names with 30 parts each.
    let text = format!("{}r", "rack[0-3]n4:A0".repeat(7));
    let set: NodeSet = text.parse().unwrap();
    assert_eq!((set.len(), set.to_string()), (1 << 14, text));
}

proptest! {
    /// What is printed is the same set, however names look.
    #[test]
    fn printing_and_reading_are_inverse(
        names in prop::collection::btree_set("[a-b]{0,1}[0-2]{1,4}([a-b.-][0-9]{0,2})?", 0..60),
    ) {
        let set: NodeSet = names.iter().collect();
        prop_assert_eq!(set.len(), names.len());
        let text = set.to_string();
        if !names.is_empty() {
            prop_assert_eq!(text.parse::<NodeSet>().unwrap(), set.clone());
        }
        let back: BTreeSet<String> = set.names().collect();
        prop_assert_eq!(back, names);
    }

    /// And what is read is printed as something that reads the same.
    #[test]
    fn reading_and_printing_are_inverse(
        first in 0u64..200, more in 0u64..200, step in 1u64..5, width in 1usize..5, tail in "[a-z]{0,3}",
    ) {
        let last = first + more;
        let text = format!("n[{first:0width$}-{last:0width$}/{step}]{tail}");
        let set: NodeSet = text.parse().unwrap();
        prop_assert_eq!(set.len() as u64, more / step + 1);
        prop_assert_eq!(set.to_string().parse::<NodeSet>().unwrap(), set.clone());
        let wanted: BTreeSet<String> =
            (first..=last).step_by(step as usize).map(|n| format!("n{n:0width$}{tail}")).collect();
        prop_assert_eq!(set.names().collect::<BTreeSet<_>>(), wanted);
    }

    #[test]
    fn whatever_is_typed_is_answered(text in "\\PC{0,40}|[n0-9\\[\\],!&^/ -]{0,40}") {
        if let Ok(set) = text.parse::<NodeSet>() {
            prop_assert!(set.len() <= MAX_NAMES);
        }
    }
}
