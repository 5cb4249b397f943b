//! Telemetry as a Parquet file, for tools of analysts.

use std::path::Path;

use iot_core::{
    id::{DeviceId, ProductId},
    time::Timestamp,
};

use crate::{failure::Failure, options::Options};

/// What is to be in the file.
#[derive(Debug, clap::Args)]
pub(crate) struct Wanted {
    /// Reports from this time on, such as 2026-01-31T00:00:00Z [default: from the first]
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<Timestamp>,
    /// Reports before this time [default: to the last]
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
    /// Devices of this product only
    #[arg(long, value_name = "PRODUCT")]
    product: Option<ProductId>,
    /// This device only; repeatable
    #[arg(long, value_name = "DEVICE")]
    device: Vec<DeviceId>,
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse_rfc3339(text).ok_or_else(|| format!("'{text}' is not a time such as 2026-01-31T00:00:00Z"))
}

/// Writes the reports of all devices, tenants and owners that are wanted into a new file. Answers a line for people.
#[cfg(not(feature = "parquet"))]
pub(crate) async fn export(_: &Options, _: &Wanted, _: &Path) -> Result<String, Failure> {
    Err(Failure::options("export: this server was built without it; build with --features parquet"))
}

#[cfg(feature = "parquet")]
pub(crate) use self::parquet::export;

#[cfg(feature = "parquet")]
mod parquet {
    use std::{
        fs::{self, File},
        io::{BufWriter, Write},
        os::unix::fs::OpenOptionsExt,
    };

    use iot_core::{
        device::{Device, Tenant},
        id::OwnershipEpoch,
        problem::Cursor,
        store::{MetaStoreExt, Range, Series, StoreError, Stores},
    };
    use iot_store::parquet::{ExportError, Exported, Writer};

    use super::*;
    use crate::database;

    const DEVICES_PER_PAGE: u32 = 500;
    const BUFFER_BYTES: usize = 1024 * 1024;

    /// Writes the reports of all devices, tenants and owners that are wanted into a new file. Answers a line for people.
    pub(crate) async fn export(options: &Options, wanted: &Wanted, to: &Path) -> Result<String, Failure> {
        let failed = |error: std::io::Error| Failure::options(format!("--to {}: {error}", to.display()));
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(failed)?;
        let written = copy(options, wanted, to, file).await;
        if written.is_err() {
            let _gone = fs::remove_file(to);
        }
        let Exported { reports, values } = written?;
        Ok(format!("{}: {reports} reports, {values} values", to.display()))
    }

    async fn copy(options: &Options, wanted: &Wanted, to: &Path, file: File) -> Result<Exported, Failure> {
        let mut beside = to.as_os_str().to_owned();
        beside.push(".reading");
        let database = database::open_to_read(options, Path::new(&beside)).await?;
        let written = write(&database.stores(), wanted, file).await;
        database.close().await;
        written.map_err(|error| Failure::part(Failure::of("export: ", &error).to_string()))
    }

    async fn write(stores: &Stores, wanted: &Wanted, file: File) -> Result<Exported, ExportError> {
        let mut writer = Writer::new(BufWriter::with_capacity(BUFFER_BYTES, file))?;
        let mut cursor = None;
        loop {
            let tenants = stores.meta.page::<Tenant>("all", "", cursor.as_ref(), DEVICES_PER_PAGE).await?;
            for tenant in tenants.items {
                devices(stores, wanted, &tenant.document, &mut writer).await?;
            }
            cursor = tenants.next;
            if cursor.is_none() {
                break;
            }
        }
        let (mut buffer, exported) = writer.finish()?;
        let synced = buffer.flush().and_then(|()| buffer.get_ref().sync_all());
        synced.map_err(ExportError::Write)?;
        Ok(exported)
    }

    async fn devices(
        stores: &Stores,
        wanted: &Wanted,
        tenant: &Tenant,
        writer: &mut Writer<BufWriter<File>>,
    ) -> Result<(), ExportError> {
        let mut cursor: Option<Cursor> = None;
        loop {
            let page = page(stores, wanted, tenant, cursor.as_ref()).await?;
            for device in &page.0 {
                if wanted.device.is_empty() || wanted.device.contains(&device.id) {
                    reports(stores, wanted, device, writer).await?;
                }
            }
            cursor = page.1;
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    async fn page(
        stores: &Stores,
        wanted: &Wanted,
        tenant: &Tenant,
        after: Option<&Cursor>,
    ) -> Result<(Vec<Device>, Option<Cursor>), StoreError> {
        let page = match &wanted.product {
            Some(product) => {
                let value = format!("{}/{product}", tenant.id);
                stores.meta.page::<Device>("product", &value, after, DEVICES_PER_PAGE).await?
            }
            None => stores.meta.page::<Device>("tenant", tenant.id.as_str(), after, DEVICES_PER_PAGE).await?,
        };
        Ok((page.items.into_iter().map(|stored| stored.document).collect(), page.next))
    }

    /// Those of former owners too, as far as they are kept.
    async fn reports(
        stores: &Stores,
        wanted: &Wanted,
        device: &Device,
        writer: &mut Writer<BufWriter<File>>,
    ) -> Result<(), ExportError> {
        let from = wanted.from.unwrap_or(Timestamp::from_micros(i64::MIN));
        let until = wanted.until.unwrap_or(Timestamp::MAX);
        for epoch in 0..=device.epoch.0 {
            let epoch = OwnershipEpoch(epoch);
            let series = Series { tenant: device.tenant.clone(), device: device.id.clone(), epoch };
            writer.push_range(&*stores.telemetry, &Range { series, metric: None, from, until }).await?;
        }
        Ok(())
    }
}
