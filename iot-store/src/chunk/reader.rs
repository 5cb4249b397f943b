use iot_core::{
    event::{Event, Report, Sequence, StoredEvent},
    id::Metric,
    store::Series,
    time::Timestamp,
};

use super::{
    ChunkError, bytes,
    layout::{HOME, Kind, Layout, PRODUCT},
    page::{Budget, Page, Shapes, Values},
    stats::Place,
};

pub(super) const KIND: u8 = b'C';

/// Numeric values of one metric, in order of time and sequence; three columns of equal length.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Numbers {
    /// When each was, by the device, in microseconds since 1970.
    pub at: Vec<i64>,
    /// The place of its report in the log.
    pub sequence: Vec<u64>,
    /// What it was, as [`Value::as_f64`](iot_core::event::Value::as_f64) has it.
    pub values: Vec<f64>,
}

/// Which reports of a chunk; all of them by default.
#[derive(Debug, Clone, Copy)]
pub struct Selection<'a> {
    /// Included.
    pub from: Timestamp,
    /// Excluded; `None` is beyond the last.
    pub until: Option<Timestamp>,
    /// Only samples with this metric, and only this value of them; everything, named events included, if `None`.
    pub metric: Option<&'a Metric>,
    /// The latest first.
    pub newest_first: bool,
    /// Only what comes after this place, in the order asked for.
    pub after: Option<Place>,
    /// At most so many.
    pub limit: usize,
}

impl Default for Selection<'_> {
    fn default() -> Self {
        Self {
            from: Timestamp::from_micros(i64::MIN),
            until: None,
            metric: None,
            newest_first: false,
            after: None,
            limit: usize::MAX,
        }
    }
}

/// Reads a chunk. Opening it verifies the checksum and reads the directory; the columns are decoded when they are asked
/// for, each time anew.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    layout: Layout,
    body: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Opens what [`encode`](super::encode()) wrote.
    pub fn open(bytes: &'a [u8]) -> Result<Self, ChunkError> {
        let (layout, body) = Layout::read(bytes::open(KIND, bytes)?)?;
        Ok(Self { layout, body })
    }

    /// How many reports, at least one.
    pub fn rows(&self) -> usize {
        self.layout.rows
    }

    /// The times of the first and of the last report.
    pub fn span(&self) -> (Timestamp, Timestamp) {
        (Timestamp::from_micros(self.layout.starts[0]), Timestamp::from_micros(self.layout.last))
    }

    /// The metrics and the names of events.
    pub fn names(&self) -> &[Metric] {
        &self.layout.metrics
    }

    /// All reports, in order; of `series`, which the chunk does not name.
    pub fn events(&self, series: &Series) -> Result<Vec<StoredEvent>, ChunkError> {
        self.select(series, &Selection::default())
    }

    /// Some of the reports, in the order asked for. Pages of other times, and columns of other metrics, are not decoded.
    pub fn select(&self, series: &Series, selection: &Selection<'_>) -> Result<Vec<StoredEvent>, ChunkError> {
        let metric = match selection.metric {
            Some(name) => match self.metric(name) {
                Some(metric) => Some(metric),
                None => return Ok(Vec::new()),
            },
            None => None,
        };
        let (mut found, mut budget) = (Vec::new(), Budget::default());
        let mut pages: Vec<usize> = self.pages(selection.from, selection.until).collect();
        if selection.newest_first {
            pages.reverse();
        }
        for page in pages {
            let left = selection.limit - found.len();
            if left == 0 {
                break;
            }
            let page = Page::new(&self.layout, self.body, page);
            let rows = Rows::of(page, selection, metric, left, &mut budget)?;
            rows.append_events(series, metric, selection.newest_first, &mut found, &mut budget)?;
        }
        Ok(found)
    }

    /// All numeric values of a metric; none if it does not occur.
    pub fn numbers(&self, metric: &Metric) -> Result<Numbers, ChunkError> {
        self.read_numbers(metric, Timestamp::from_micros(i64::MIN), None, true)
    }

    /// The same from `from`, included, until `until`, excluded.
    pub fn numbers_between(&self, metric: &Metric, from: Timestamp, until: Timestamp) -> Result<Numbers, ChunkError> {
        self.read_numbers(metric, from, Some(until), true)
    }

    /// Times and values as in [`numbers_between`](Self::numbers_between) without the sequences, which are not decoded: for
    /// a chunk that overlaps no other.
    pub fn values_between(
        &self,
        metric: &Metric,
        from: Timestamp,
        until: Timestamp,
    ) -> Result<(Vec<i64>, Vec<f64>), ChunkError> {
        self.read_numbers(metric, from, Some(until), false).map(|numbers| (numbers.at, numbers.values))
    }

    /// Shows times, in microseconds since 1970, and values as in [`values_between`](Self::values_between), in order, a
    /// page at a time: what an aggregate reads, without room for all of them.
    pub fn visit_values(
        &self,
        metric: &Metric,
        from: Timestamp,
        until: Timestamp,
        mut visit: impl FnMut(&[i64], &[f64]),
    ) -> Result<(), ChunkError> {
        self.visit_numbers(metric, from, Some(until), false, |numbers| visit(&numbers.at, &numbers.values))
    }

    fn read_numbers(
        &self,
        metric: &Metric,
        from: Timestamp,
        until: Option<Timestamp>,
        with_sequences: bool,
    ) -> Result<Numbers, ChunkError> {
        let mut found = Numbers::default();
        self.visit_numbers(metric, from, until, with_sequences, |numbers| found.append(numbers))?;
        Ok(found)
    }

    fn visit_numbers(
        &self,
        metric: &Metric,
        from: Timestamp,
        until: Option<Timestamp>,
        with_sequences: bool,
        mut visit: impl FnMut(Numbers),
    ) -> Result<(), ChunkError> {
        let Some(metric) = self.metric(metric) else { return Ok(()) };
        let mut budget = Budget::default();
        for page in self.pages(from, until) {
            let page = Page::new(&self.layout, self.body, page);
            let mut numbers = numbers_of(page, metric, with_sequences, &mut budget)?;
            numbers.cut(from, until);
            visit(numbers);
        }
        Ok(())
    }

    fn metric(&self, name: &Metric) -> Option<usize> {
        self.layout.metrics.iter().position(|metric| metric == name)
    }

    // The last time of a page may be the first of the next.
    fn pages(&self, from: Timestamp, until: Option<Timestamp>) -> impl Iterator<Item = usize> {
        let starts = &self.layout.starts;
        let ends = starts.iter().skip(1).chain([&self.layout.last]);
        let overlaps = move |start: i64, end: i64| {
            from.as_micros() <= end && until.is_none_or(|until| start < until.as_micros() && from < until)
        };
        starts
            .iter()
            .zip(ends)
            .enumerate()
            .filter(move |(_, (start, end))| overlaps(**start, **end))
            .map(|(page, _)| page)
    }
}

impl Numbers {
    fn append(&mut self, mut other: Self) {
        if self.at.is_empty() {
            *self = other;
        } else {
            self.at.append(&mut other.at);
            self.sequence.append(&mut other.sequence);
            self.values.append(&mut other.values);
        }
    }

    fn cut(&mut self, from: Timestamp, until: Option<Timestamp>) {
        let (start, end) = span(&self.at, from, until);
        if (start, end) == (0, self.at.len()) {
            return;
        }
        self.at = self.at[start..end].to_vec();
        self.values = self.values[start..end].to_vec();
        if !self.sequence.is_empty() {
            self.sequence = self.sequence[start..end].to_vec();
        }
    }
}

/// Which rows of sorted times are in a half-open range.
fn span(times: &[i64], from: Timestamp, until: Option<Timestamp>) -> (usize, usize) {
    let start = times.partition_point(|at| *at < from.as_micros());
    let end = until.map_or(times.len(), |until| times.partition_point(|at| *at < until.as_micros()));
    (start, end.max(start))
}

fn numbers_of(page: Page<'_>, metric: usize, with_sequences: bool, budget: &mut Budget) -> Result<Numbers, ChunkError> {
    let shapes = page.shapes(budget)?;
    let layout = page.layout;
    let of_metric = |column: usize| layout.columns[column].metric == metric && layout.columns[column].kind.is_number();
    let mut columns = Vec::new();
    for column in (0..layout.columns.len()).filter(|column| of_metric(*column)) {
        let values = page.numbers(column, page.column_rows(column, &shapes))?;
        columns.push((column, values.into_iter()));
    }
    let at = page.times()?;
    let sequence = if with_sequences { page.sequences()? } else { Vec::new() };
    let is_in_each = matches!(&layout.shapes[..], [shape] if shape.iter().filter(|c| of_metric(**c)).count() == 1);
    if let (true, [(_, values)]) = (is_in_each, &mut columns[..]) {
        return Ok(Numbers { at, sequence, values: values.collect() });
    }
    let mut found = Numbers::default();
    for (row, at) in at.into_iter().enumerate() {
        for column in &layout.shapes[shapes.of(row)] {
            let values = columns.iter_mut().find(|(of, _)| of == column).map(|(_, values)| values);
            let Some(value) = values.and_then(Iterator::next) else { continue };
            found.at.push(at);
            found.sequence.extend(sequence.get(row));
            found.values.push(value);
        }
    }
    Ok(found)
}

/// Some rows of a page.
struct Rows<'a> {
    page: Page<'a>,
    times: Vec<i64>,
    sequences: Vec<u64>,
    shapes: Shapes,
    /// Ascending.
    chosen: Vec<usize>,
}

impl<'a> Rows<'a> {
    fn of(
        page: Page<'a>,
        selection: &Selection<'_>,
        metric: Option<usize>,
        limit: usize,
        budget: &mut Budget,
    ) -> Result<Self, ChunkError> {
        let (times, sequences, shapes) = (page.times()?, page.sequences()?, page.shapes(budget)?);
        let (start, end) = span(&times, selection.from, selection.until);
        let place = |row: usize| (Timestamp::from_micros(times[row]), Sequence(sequences[row]));
        let is_chosen = |row: &usize| {
            let is_after = match selection.after {
                Some(after) if selection.newest_first => place(*row) < after,
                Some(after) => place(*row) > after,
                None => true,
            };
            is_after && metric.is_none_or(|metric| page.layout.shape_has(shapes.of(*row), metric))
        };
        let mut chosen: Vec<usize> = if selection.newest_first {
            (start..end).rev().filter(is_chosen).take(limit).collect()
        } else {
            (start..end).filter(is_chosen).take(limit).collect()
        };
        chosen.sort_unstable();
        Ok(Self { page, times, sequences, shapes, chosen })
    }

    fn append_events(
        self,
        series: &Series,
        metric: Option<usize>,
        newest_first: bool,
        found: &mut Vec<StoredEvent>,
        budget: &mut Budget,
    ) -> Result<(), ChunkError> {
        if self.chosen.is_empty() {
            return Ok(());
        }
        let layout = self.page.layout;
        let mut reports = self.reports(metric, budget)?.into_iter();
        let received = self.page.received(&self.times)?;
        let counts = self.page.device_sequences()?;
        let products = self.page.indices(PRODUCT, layout.products.len())?;
        let homes = self.page.indices(HOME, layout.homes.len())?;
        let event = |row: usize, report: Report| Event {
            tenant: series.tenant.clone(),
            product: layout.products[products[row]].clone(),
            device: series.device.clone(),
            epoch: series.epoch,
            home: layout.homes[homes[row]].clone(),
            at: Timestamp::from_micros(self.times[row]),
            received: Timestamp::from_micros(received[row]),
            device_sequence: counts.get(row).copied().flatten(),
            report,
        };
        let first = found.len();
        for (row, report) in self.chosen.iter().zip(&mut reports) {
            found.push(StoredEvent { sequence: Sequence(self.sequences[*row]), event: event(*row, report) });
        }
        if newest_first {
            found[first..].reverse();
        }
        Ok(())
    }

    /// The reports of the chosen rows, narrowed to the metric.
    fn reports(&self, metric: Option<usize>, budget: &mut Budget) -> Result<Vec<Report>, ChunkError> {
        let layout = self.page.layout;
        let mut columns: Vec<Option<Values>> = Vec::with_capacity(layout.columns.len());
        for (column, of) in layout.columns.iter().enumerate() {
            let is_wanted = metric.is_none_or(|metric| of.metric == metric && of.kind != Kind::Event);
            let rows = if is_wanted { self.page.column_rows(column, &self.shapes) } else { 0 };
            columns.push(if is_wanted { Some(self.page.column(column, rows, budget)?) } else { None });
        }
        let (mut next, mut reports) = (vec![0_usize; columns.len()], Vec::with_capacity(self.chosen.len()));
        let mut chosen = self.chosen.iter().copied().peekable();
        for row in 0..self.page.rows {
            let shape = &layout.shapes[self.shapes.of(row)];
            if chosen.next_if_eq(&row).is_some() {
                reports.push(self.report(shape, &columns, &mut next)?);
            } else {
                shape.iter().for_each(|column| next[*column] += 1);
            }
        }
        Ok(reports)
    }

    /// `next` says how far each column has been read.
    fn report(&self, shape: &[usize], columns: &[Option<Values>], next: &mut [usize]) -> Result<Report, ChunkError> {
        let layout = self.page.layout;
        let name = |column: usize| layout.metrics[layout.columns[column].metric].clone();
        if let [column] = *shape
            && layout.columns[column].kind == Kind::Event
            && let Some(values) = &columns[column]
        {
            next[column] += 1;
            return Ok(Report::Event { name: name(column), data: values.json(next[column] - 1)? });
        }
        let mut values = Vec::with_capacity(shape.len());
        for column in shape {
            if let Some(of_column) = &columns[*column] {
                values.push((name(*column), of_column.value(next[*column])?));
            }
            next[*column] += 1;
        }
        Ok(Report::Telemetry(values))
    }
}
