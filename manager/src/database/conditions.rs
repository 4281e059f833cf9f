//! What a list is narrowed by, as SQL: fixed texts joined by `AND`, and values that are bound.

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AssertSqlSafe};

/// Conditions that rows have to meet, all of them.
#[derive(Debug, Default)]
pub(crate) struct Conditions {
    terms: Vec<String>,
    bound: Vec<Bound>,
}

/// A value in a condition.
#[derive(Debug)]
pub(crate) enum Bound {
    Text(String),
    Number(i64),
}

impl From<&str> for Bound {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for Bound {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl Conditions {
    /// Where there is a `value`, `left` of it, such as `seq <`.
    pub(crate) fn and(mut self, left: &'static str, value: Option<impl Into<Bound>>) -> Self {
        if let Some(value) = value {
            let place = self.bind(value);
            self.terms.push(format!("{left} {place}"));
        }
        self
    }

    /// Where there is an `actor`, that `column` names it or, of an account, one of its tokens
    /// ([`Caller::actor`](crate::users::credentials::Caller::actor)). The column has to be in the order
    /// of its bytes.
    pub(crate) fn and_by(mut self, column: &'static str, actor: Option<&str>) -> Self {
        if let Some(actor) = actor {
            let itself = self.bind(actor);
            let first = self.bind(&*format!("{actor} (token "));
            // The sign after the space.
            let end = self.bind(&*format!("{actor} (token!"));
            self.terms.push(format!(
                "({column} = {itself} OR ({column} >= {first} AND {column} < {end}))"
            ));
        }
        self
    }

    /// The rows that meet them, `most` at most, of `SELECT … FROM …` in the order of `ORDER BY …`.
    pub(crate) async fn rows(
        mut self,
        connection: &mut AnyConnection,
        select: &'static str,
        order: &'static str,
        most: i64,
    ) -> Result<Vec<AnyRow>, sqlx::Error> {
        let most = self.bind(most);
        let terms = match self.terms.is_empty() {
            true => String::new(),
            false => format!("WHERE {}", self.terms.join(" AND ")),
        };
        let sql = format!("{select} {terms} {order} LIMIT {most}");
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for value in self.bound {
            query = match value {
                Bound::Text(text) => query.bind(text),
                Bound::Number(number) => query.bind(number),
            };
        }
        query.fetch_all(connection).await
    }

    fn bind(&mut self, value: impl Into<Bound>) -> String {
        self.bound.push(value.into());
        format!("${}", self.bound.len())
    }
}
