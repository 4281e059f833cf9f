//! Patterns as people write them: `*` stands for anything, the rest for itself.

/// Whether `text` is as `pattern` says, in which `*` stands for anything.
pub fn is_like(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<_> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn stars_stand_for_anything(parts in prop::collection::vec("[a-c/]{0,4}", 1..5), fill in prop::collection::vec("[a-c/]{0,4}", 5)) {
            let pattern = parts.join("*");
            let mut text = parts[0].clone();
            for (part, fill) in parts[1..].iter().zip(&fill) {
                text.push_str(fill);
                text.push_str(part);
            }
            prop_assert!(is_like(&pattern, &text));
        }

        #[test]
        fn without_a_star_only_the_same(pattern in "[a-c]{0,4}", text in "[a-c]{0,4}") {
            prop_assert_eq!(is_like(&pattern, &text), pattern == text);
        }
    }
}
