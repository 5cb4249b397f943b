use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

use csv::{ReaderBuilder, StringRecord};
use iot_core::{
    access::Principal,
    device::{Device, Product, Stage},
    home::Home,
    id::{DeviceId, HomeId, OwnershipEpoch, PCode, ProductId},
    store::{ATTEMPTS_MAX, Batch, Check, Committed, Contended, Key, MetaStoreExt, Stored, Write},
    time::Timestamp,
};

use crate::auth::{Auth, AuthError};

/// The most units of one file.
pub const CSV_ROWS_MAX: usize = 10_000;

/// The largest file, in bytes.
pub const CSV_BYTES_MAX: usize = 4 * 1024 * 1024;

const COLUMNS: [&str; 3] = ["device_id", "p_code", "home"];

/// The answer to a file of units.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Import {
    /// So many units were created, all in one commit.
    Done(usize),
    /// There is no such product.
    NoSuchProduct,
    /// Nothing was created.
    Rejected(ImportError),
}

/// What is wrong with a file: the first thing that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportError {
    /// Its line, from 1, the header's.
    pub line: u64,
    /// What kind.
    pub kind: ImportErrorKind,
    /// For people, without the line.
    pub detail: String,
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ImportErrorKind {
    /// The header line.
    Columns,
    /// Not of the right form, or a home that does not exist.
    Line,
    /// A device id or P code that an earlier line has.
    Duplicate,
    /// More than [`CSV_ROWS_MAX`] lines.
    TooManyRows,
    /// The device id is taken.
    DeviceExists,
    /// The P code is taken.
    PCodeExists,
}

impl ImportErrorKind {
    /// Stable, `snake_case`.
    pub fn code(self) -> &'static str {
        match self {
            Self::Columns => "csv_columns",
            Self::Line => "csv_line_invalid",
            Self::Duplicate => "duplicate_in_file",
            Self::TooManyRows => "csv_too_many_rows",
            Self::DeviceExists => "device_exists",
            Self::PCodeExists => "p_code_exists",
        }
    }
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.detail)
    }
}

impl Auth {
    /// Creates the units of a CSV file, all or none: see `docs/protocol.md`. `csv` is at most [`CSV_BYTES_MAX`] long.
    pub async fn import_units(&self, by: &Principal, product: &ProductId, csv: &[u8]) -> Result<Import, AuthError> {
        let product_key = Product::key_of(&by.tenant, product);
        let rows = match read(csv) {
            Ok(rows) => rows,
            Err(error) => return self.rejected(by, &product_key, error).await,
        };
        for _ in 0..ATTEMPTS_MAX {
            let Some(stored) = self.meta.find::<Product>(&product_key).await? else {
                return Ok(Import::NoSuchProduct);
            };
            let homes = match self.homes_of(by, &rows).await? {
                Ok(homes) => homes,
                Err(error) => return self.rejected(by, &product_key, error).await,
            };
            let batch = batch(&stored, &homes, &rows, self.now());
            match self.meta.commit(batch.audited(self.done(by, "units_import", &product_key))).await? {
                Committed::Done(_) => return Ok(Import::Done(rows.len())),
                Committed::Conflict(key) => {
                    if let Some(error) = self.taken(by, &rows, &key).await? {
                        return self.rejected(by, &product_key, error).await;
                    }
                }
            }
        }
        Err(Contended.into())
    }

    async fn rejected(&self, by: &Principal, product: &Key, error: ImportError) -> Result<Import, AuthError> {
        self.refused(self.done(by, "units_import", product), error.kind.code()).await?;
        Ok(Import::Rejected(error))
    }

    async fn homes_of(
        &self,
        by: &Principal,
        rows: &[Row],
    ) -> Result<Result<BTreeMap<HomeId, Stored<Home>>, ImportError>, AuthError> {
        let mut homes = BTreeMap::new();
        for row in rows {
            let Some(id) = row.home.as_ref().filter(|id| !homes.contains_key(*id)) else { continue };
            match self.meta.find::<Home>(&Home::key_of(&by.tenant, id)).await? {
                // A code binds a device to a home of people, and nothing else does.
                Some(home) if home.document.owner().is_some() => {
                    return Ok(Err(row.error(ImportErrorKind::Line, format!("{id} is a home of people"))));
                }
                Some(home) => homes.insert(id.clone(), home),
                None => return Ok(Err(row.error(ImportErrorKind::Line, format!("there is no home {id}")))),
            };
        }
        Ok(Ok(homes))
    }

    /// What stands in the way of the device with this key; `None` if it was something else that changed.
    async fn taken(&self, by: &Principal, rows: &[Row], key: &Key) -> Result<Option<ImportError>, AuthError> {
        let Some(row) = rows.iter().find(|row| Device::key_of(&by.tenant, &row.device) == *key) else {
            return Ok(None);
        };
        if self.meta.find::<Device>(key).await?.is_some() {
            let detail = format!("device {} exists", row.device);
            return Ok(Some(row.error(ImportErrorKind::DeviceExists, detail)));
        }
        let p_code = format!("{}/{}", by.tenant, row.p_code);
        let holder = self.meta.find_by::<Device>("p_code", &p_code).await?;
        let detail = format!("P code {} belongs to another device", row.p_code);
        Ok(holder.map(|_| row.error(ImportErrorKind::PCodeExists, detail)))
    }
}

fn batch(product: &Stored<Product>, homes: &BTreeMap<HomeId, Stored<Home>>, rows: &[Row], now: Timestamp) -> Batch {
    let Product { tenant, id, .. } = &product.document;
    let mut batch = Batch::default().unchanged(product);
    for home in homes.values() {
        batch = batch.replace(home, &home.document);
    }
    for row in rows {
        let device = Device {
            tenant: tenant.clone(),
            product: id.clone(),
            id: row.device.clone(),
            p_code: row.p_code.clone(),
            stage: Stage::Manufactured,
            epoch: OwnershipEpoch::default(),
            home: row.home.clone(),
            keys: vec![],
            created: now,
        };
        batch.checks.push(Check::Absent(Device::key_of(tenant, &row.device)));
        batch.writes.push(Write::put(&device));
    }
    batch
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    line: u64,
    device: DeviceId,
    p_code: PCode,
    home: Option<HomeId>,
}

impl Row {
    fn error(&self, kind: ImportErrorKind, detail: String) -> ImportError {
        ImportError { line: self.line, kind, detail }
    }
}

fn read(csv: &[u8]) -> Result<Vec<Row>, ImportError> {
    let csv = unix_lines(csv);
    let mut reader = ReaderBuilder::new().trim(csv::Trim::All).from_reader(csv.as_slice());
    let columns = Columns::read(reader.headers().map_err(|e| malformed(&e, ImportErrorKind::Columns))?)?;
    let (mut rows, mut devices, mut p_codes) = (Vec::new(), HashSet::new(), HashMap::new());
    for record in reader.records() {
        let row = columns.row(&record.map_err(|e| malformed(&e, ImportErrorKind::Line))?)?;
        if rows.len() == CSV_ROWS_MAX {
            let detail = format!("a file has at most {CSV_ROWS_MAX} units; split it");
            return Err(row.error(ImportErrorKind::TooManyRows, detail));
        }
        if !devices.insert(row.device.clone()) {
            return Err(row.error(ImportErrorKind::Duplicate, format!("device {} again", row.device)));
        }
        if let Some(first) = p_codes.insert(row.p_code.clone(), row.line) {
            let detail = format!("P code {} again, as in line {first}", row.p_code);
            return Err(row.error(ImportErrorKind::Duplicate, detail));
        }
        rows.push(row);
    }
    Ok(rows)
}

/// The csv crate counts a line behind where lines end in CR LF.
fn unix_lines(csv: &[u8]) -> Vec<u8> {
    let ends = |at: usize| csv[at] == b'\r' && csv.get(at + 1) == Some(&b'\n');
    (0..csv.len()).filter(|at| !ends(*at)).map(|at| csv[at]).collect()
}

/// Where the columns of [`COLUMNS`] stand.
struct Columns([Option<usize>; 3]);

impl Columns {
    fn read(header: &StringRecord) -> Result<Self, ImportError> {
        let error = |detail: String| ImportError { line: 1, kind: ImportErrorKind::Columns, detail };
        let mut places = [None; 3];
        for (place, name) in header.iter().enumerate() {
            let known = COLUMNS.iter().position(|column| *column == name);
            let column = known.ok_or_else(|| error(format!("the columns are {COLUMNS:?}, not {name:?}")))?;
            if places[column].replace(place).is_some() {
                return Err(error(format!("{name} stands there twice")));
            }
        }
        match places {
            [Some(_), Some(_), _] => Ok(Self(places)),
            _ => Err(error("the first line names the columns; device_id and p_code must be there".to_owned())),
        }
    }

    fn row(&self, record: &StringRecord) -> Result<Row, ImportError> {
        let line = record.position().map_or(0, csv::Position::line);
        let invalid = |e: &dyn fmt::Display| ImportError { line, kind: ImportErrorKind::Line, detail: e.to_string() };
        let field = |column: usize| self.0[column].and_then(|place| record.get(place)).unwrap_or_default();
        Ok(Row {
            line,
            device: DeviceId::parse(field(0)).map_err(|e| invalid(&e))?,
            p_code: PCode::parse(field(1)).map_err(|e| invalid(&e))?,
            home: match field(2) {
                "" => None,
                home => Some(HomeId::parse(home).map_err(|e| invalid(&e))?),
            },
        })
    }
}

fn malformed(error: &csv::Error, kind: ImportErrorKind) -> ImportError {
    let line = error.position().map_or(1, csv::Position::line);
    let detail = match error.kind() {
        csv::ErrorKind::Utf8 { .. } => "it is not UTF-8".to_owned(),
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} fields where there are {expected_len} columns")
        }
        _ => "it is not CSV (RFC 4180)".to_owned(),
    };
    ImportError { line, kind, detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(csv: &str) -> (u64, &'static str) {
        let error = read(csv.as_bytes()).unwrap_err();
        (error.line, error.kind.code())
    }

    #[test]
    fn rows_are_read_in_any_order_of_columns() {
        let rows =
            read("\u{feff}p_code, home,device_id\r\nAB-1,,lamp-1\r\n\"AB-2\", h1 ,lamp-2\r\n".as_bytes()).unwrap();
        let read: Vec<_> =
            rows.iter().map(|r| (r.line, r.device.as_str(), r.p_code.as_str(), r.home.is_some())).collect();
        assert_eq!(read, [(2, "lamp-1", "AB-1", false), (3, "lamp-2", "AB-2", true)]);
        assert_eq!(read_len("device_id,p_code\n"), 0);
    }

    fn read_len(csv: &str) -> usize {
        read(csv.as_bytes()).unwrap().len()
    }

    #[test]
    fn an_error_names_its_line() {
        let head = "device_id,p_code\n";
        for header in
            ["", "device_id\n", "device_id,p_code,colour\n", "device_id,p_code,p_code\n", "device_id;p_code\n"]
        {
            assert_eq!(error(header), (1, "csv_columns"), "{header}");
        }
        assert_eq!(error(&format!("{head}a,A\nb/c,B\n")), (3, "csv_line_invalid"));
        assert_eq!(error(&format!("{head}a,A\nb,b\n")), (3, "csv_line_invalid"));
        assert_eq!(error(&format!("{head}a,A\nb\n")), (3, "csv_line_invalid"));
        assert_eq!(error(&format!("{head}a,A\n,B\n")), (3, "csv_line_invalid"));
        assert_eq!(error(&format!("{head}a,A\nb,B\na,C\n")), (4, "duplicate_in_file"));
        assert_eq!(error(&format!("{head}a,A\nb,A\n")), (3, "duplicate_in_file"));
        let bytes = [head.as_bytes(), b"a,A\n\xff,B\n"].concat();
        assert_eq!(read(&bytes).unwrap_err().line, 3);
    }

    #[test]
    fn a_file_has_a_bounded_number_of_rows() {
        let mut file = "device_id,p_code\n".to_owned();
        (0..CSV_ROWS_MAX).for_each(|n| file += &format!("d{n},P{n}\n"));
        assert_eq!(read_len(&file), CSV_ROWS_MAX);
        file += "x,X\n";
        assert_eq!(error(&file), (CSV_ROWS_MAX as u64 + 2, "csv_too_many_rows"));
    }
}
