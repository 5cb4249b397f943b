//! Statements that are sent at once and answered in order, in one round trip.

use std::{future::poll_fn, ops::Index, pin::Pin, task::Poll};

use deadpool_postgres::Client;
use tokio_postgres::{Row, types::ToSql};

use super::fault::Fault;

/// A value that a statement is given.
pub(super) type Parameter<'a> = Box<dyn ToSql + Sync + Send + 'a>;

/// Boxes the values of a statement.
macro_rules! parameters {
    ($($value:expr),* $(,)?) => {
        vec![$(Box::new($value) as $crate::postgres::pipeline::Parameter<'_>),*]
    };
}
pub(super) use parameters;

/// Collects statements. In a transaction one that fails makes the server refuse those after it, and answer COMMIT with a
/// rollback; the first failure is what [`run`](Self::run) tells.
#[derive(Default)]
pub(super) struct Pipeline<'a> {
    statements: Vec<(&'static str, Vec<Parameter<'a>>)>,
}

/// Finds the rows of a statement.
#[derive(Clone, Copy)]
pub(super) struct Place(usize);

/// The rows of all statements.
pub(super) struct Answers(Vec<Option<Vec<Row>>>);

impl<'a> Pipeline<'a> {
    /// Begins with BEGIN.
    pub(super) fn begin() -> Self {
        let mut pipeline = Self::default();
        pipeline.add("BEGIN", Vec::new());
        pipeline
    }

    pub(super) fn add(&mut self, sql: &'static str, parameters: Vec<Parameter<'a>>) -> Place {
        self.statements.push((sql, parameters));
        Place(self.statements.len() - 1)
    }

    /// Ends with COMMIT, and sends everything.
    pub(super) async fn commit(mut self, client: &Client) -> Result<Answers, Fault> {
        self.add("COMMIT", Vec::new());
        self.run(client).await
    }

    pub(super) async fn run(self, client: &Client) -> Result<Answers, Fault> {
        let mut prepared = Vec::with_capacity(self.statements.len());
        for (sql, parameters) in &self.statements {
            // The connection knows all but those that it has never sent.
            let statement = client.prepare_cached(sql).await?;
            let parameters = parameters.iter().map(|parameter| &**parameter as &(dyn ToSql + Sync)).collect::<Vec<_>>();
            prepared.push((statement, parameters));
        }
        let mut under_way: Vec<_> =
            prepared.iter().map(|(statement, parameters)| Box::pin(client.query(statement, parameters))).collect();
        let mut answers: Vec<Option<Vec<Row>>> = under_way.iter().map(|_| None).collect();
        // The first poll of each sends it, so that they go in order; after a failure the rest is not sent.
        poll_fn(|context| {
            let mut done = true;
            for (statement, answer) in under_way.iter_mut().zip(&mut answers) {
                if answer.is_some() {
                    continue;
                }
                match Pin::new(statement).poll(context) {
                    Poll::Ready(Ok(rows)) => *answer = Some(rows),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => done = false,
                }
            }
            if done { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await?;
        Ok(Answers(answers))
    }
}

impl Index<Place> for Answers {
    type Output = [Row];

    fn index(&self, Place(place): Place) -> &[Row] {
        self.0[place].as_deref().unwrap_or_default()
    }
}
