//! Changes to other people's files: small, checked, and with a way back. Every editor takes a text
//! and gives a text; what it did not have to touch is the same byte for byte, and the result is
//! parsed and compared before anybody sees it.

pub(crate) mod hosts;
pub(crate) mod json;
pub(crate) mod toml;
pub(crate) mod yaml;

/// Where a block of ours begins and ends in a file that is not ours.
const BEGIN: &str = "# darner setup: begin; removed by `darner teardown`";
const END: &str = "# darner setup: end";

/// A file that is left as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EditError {
    /// The runtime itself could not read it.
    #[error("it is not valid {form}: {why}")]
    Broken {
        /// JSON, TOML or YAML.
        form: &'static str,
        /// What the parser says.
        why: String,
    },
    /// It is valid, but nothing can be put into it without disturbing something.
    #[error("{0}")]
    Shape(String),
}

impl EditError {
    pub(crate) fn broken(form: &'static str, why: impl ToString) -> Self {
        let why = why.to_string();
        Self::Broken {
            form,
            why: why.lines().next().unwrap_or_default().to_owned(),
        }
    }

    fn shape(why: impl Into<String>) -> Self {
        Self::Shape(why.into())
    }
}

/// A block between marks, each line indented as its neighbours are.
fn block(indent: &str, lines: &str) -> String {
    let mut block = format!("{indent}{BEGIN}\n");
    for line in lines.lines() {
        block.push_str(indent);
        block.push_str(line);
        block.push('\n');
    }
    block.push_str(indent);
    block.push_str(END);
    block.push('\n');
    block
}

/// `text` with `block` before the line that has this number, counted from zero.
fn insert_line(text: &str, line: usize, block: &str) -> String {
    let at = text
        .split_inclusive('\n')
        .take(line)
        .map(str::len)
        .sum::<usize>();
    let (before, after) = text.split_at(at);
    let gap = if before.is_empty() || before.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    format!("{before}{gap}{block}{after}")
}

/// `text` without what stands between marks.
fn without_blocks(text: &str) -> String {
    let mut inside = false;
    let mut kept = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        match line.trim() {
            BEGIN => inside = true,
            END if inside => inside = false,
            _ if inside => {}
            _ => kept.push_str(line),
        }
    }
    kept
}
