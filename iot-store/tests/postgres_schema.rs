//! How a schema is made, brought up from an older release, and refused.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use iot_core::{
    event::{Event, Sequence},
    id::ConsumerId,
    message::{Message, QoS},
    store::{
        Audit, Batch, Committed, Fenced, IndexKey, MetaStore, Policies, Publication, Range, Revision, Series,
        SessionStore, StoredSubscription, Target, TelemetryStore,
    },
    time::Timestamp,
};
use iot_store::{
    StoreLimits,
    postgres::{OpenError, Postgres, PostgresSettings},
};
use tokio::task::JoinSet;

use self::cluster::samples::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_is_made_once_by_many_at_once() {
    let settings = cluster::fresh();
    let mut opening = JoinSet::new();
    for _ in 0..8 {
        let settings = settings.clone();
        opening.spawn(async move { open(&settings).await });
    }
    let stores = opening.join_all().await;
    for (n, store) in stores.iter().enumerate() {
        done(store, &n.to_string()).await;
    }
    assert_eq!(stores[0].revision().await.unwrap(), Revision(8));
}

#[tokio::test]
async fn a_newer_edited_or_foreign_schema_is_refused() {
    let settings = cluster::fresh();
    drop(open(&settings).await);
    let beside = cluster::connect(&settings).await;
    beside.batch_execute("INSERT INTO migration (number, checksum) VALUES (1000, 'x')").await.unwrap();
    assert!(matches!(refusal(&settings).await, OpenError::Newer { .. }));
    beside.batch_execute("DELETE FROM migration WHERE number = 1000").await.unwrap();
    drop(open(&settings).await);
    beside.batch_execute("UPDATE migration SET checksum = 'x' WHERE number = 1").await.unwrap();
    assert!(matches!(refusal(&settings).await, OpenError::Changed { number: 1 }));

    let settings = cluster::fresh();
    let theirs = format!("CREATE SCHEMA {0}; CREATE TABLE {0}.theirs (x INT)", settings.schema);
    beside.batch_execute(&theirs).await.unwrap();
    assert!(matches!(refusal(&settings).await, OpenError::Damaged { .. }));
    beside.batch_execute(&format!("DROP TABLE {}.theirs", settings.schema)).await.unwrap();
    drop(open(&settings).await);
}

const NEWEST: &str = include_str!("fixtures/postgres/0003.sql");

/// Every layout that was ever released can be brought to the present one, and what it holds is there.
#[tokio::test]
async fn a_schema_of_an_older_release_is_brought_up() {
    for dump in [include_str!("fixtures/postgres/0001.sql"), include_str!("fixtures/postgres/0002.sql"), NEWEST] {
        let settings = cluster::fresh();
        let beside = cluster::connect(&settings).await;
        beside.batch_execute(&dump.replace("fixture", &settings.schema)).await.unwrap();
        let mut only_present = settings.clone();
        only_present.upgrade = false;
        let looked = Postgres::open(&only_present, StoreLimits::default()).await;
        assert_eq!(looked.is_ok(), dump == NEWEST, "{looked:?}");
        let store = open(&settings).await;
        let record = store.get(&[key("a")]).await.unwrap().remove(0).unwrap();
        assert_eq!((record.version, record.format, record.body.as_str()), (2, 1, r#"{"a": "\u0000"}"#));
        let claimed = store.commit(batch([put("c", "{}", &[IndexKey::unique("code", "A")])])).await.unwrap();
        assert_eq!(claimed, Committed::Conflict(key("c")));
        let changes = store.changes(Revision(0), 10).await.unwrap();
        assert_eq!(changes.iter().map(|change| change.revision.0).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(store.audit(&tenant(), None, 9).await.unwrap().items[0].action, "done");
        assert_eq!(store.after(&node(), Sequence(0), 9).await.unwrap()[0].event, event("d"));
        assert_eq!(store.append(&node(), &[event("d")]).await.unwrap(), [None]);
        assert_eq!(store.append(&node(), &[event("e")]).await.unwrap(), [Some(Sequence(2))]);
        let sealed = store.maintain(far(), &Policies::default()).await.unwrap().sealed;
        assert_eq!(store.maintain(far(), &Policies::default()).await.unwrap().sealed, 0);
        assert!(sealed == 1 || dump != NEWEST && sealed == 2);
        assert_eq!(store.range(&everything_of("d"), false, None, 9).await.unwrap().items[0].event, event("d"));
        let queued = store.peek(&session("s"), None, 9, usize::MAX).await.unwrap();
        assert_eq!(queued.iter().map(|queued| queued.message.clone()).collect::<Vec<_>>(), [message("kept")]);
        let retained = store.retained(&tenant(), "#", None, 9, Timestamp::from_micros(0)).await.unwrap();
        assert_eq!(retained, [Message { retain: true, ..message("retained") }]);
        let opened = store.open(opening(&session("s"))).await.unwrap();
        assert_eq!(opened.epoch.0, 2);
        assert_eq!(opened.resumed.unwrap().subscriptions[0].filter, "a/#");
    }
}

#[tokio::test]
async fn a_database_that_must_not_be_changed_is_not() {
    let mut settings = cluster::fresh();
    settings.upgrade = false;
    let refused = Postgres::open(&settings, StoreLimits::default()).await.unwrap_err();
    assert!(matches!(refused, OpenError::Older { found: 0, .. }), "{refused:?}");
    let beside = cluster::connect(&settings).await;
    let schemas = "SELECT 1 FROM pg_namespace WHERE nspname = $1";
    assert!(beside.query_opt(schemas, &[&settings.schema]).await.unwrap().is_none());
}

fn everything_of(device: &str) -> Range {
    let Event { tenant, device, epoch, .. } = event(device);
    let (from, until) = (Timestamp::from_micros(i64::MIN), Timestamp::MAX);
    Range { series: Series { tenant, device, epoch }, metric: None, from, until }
}

/// Two days after the events were received.
fn far() -> Timestamp {
    Timestamp::from_micros(event("d").received.as_micros() + 2 * 86_400_000_000)
}

/// Writes what each fixture holds.
async fn fill(store: &Postgres) {
    done(store, "b").await;
    done(store, "a").await;
    let audit = Audit {
        at: Timestamp::from_micros(1),
        tenant: tenant(),
        actor: "somebody".to_owned(),
        action: "done".to_owned(),
        subject: "thing:a".to_owned(),
        refused: None,
    };
    let index_keys = [IndexKey::unique("code", "A"), IndexKey::many("home", "h")];
    let written = Batch { audit: vec![audit], ..batch([put("a", r#"{"a": "\u0000"}"#, &index_keys)]) };
    assert!(matches!(store.commit(written).await.unwrap(), Committed::Done(_)));
    assert_eq!(store.append(&node(), &[event("d")]).await.unwrap(), [Some(Sequence(1))]);
    assert_eq!(store.checkpoint(&node(), &ConsumerId::parse("slow").unwrap()).await.unwrap(), Sequence(0));
    assert_eq!(store.maintain(far(), &Policies::default()).await.unwrap().sealed, 1);
    let epoch = store.open(opening(&session("s"))).await.unwrap().epoch;
    let subscription = StoredSubscription {
        filter: "a/#".to_owned(),
        qos: QoS::ExactlyOnce,
        no_local: false,
        retain_as_published: true,
        identifier: Some(u32::MAX),
    };
    assert_eq!(store.subscribe(&session("s"), epoch, &[subscription]).await.unwrap(), Fenced::Done);
    let target = Target { session: session("s"), qos: QoS::AtLeastOnce, retain: false, identifiers: vec![1] };
    let kept = Publication { message: message("kept"), to: vec![target], received: Some((session("s"), epoch, 7)) };
    let retained = Message { retain: true, ..message("retained") };
    let retained = Publication { message: retained, to: Vec::new(), received: None };
    assert_eq!(store.offer(&[kept, retained]).await.unwrap().len(), 2);
}

/// The present layout, filled in the same way, has what the newest fixture has. A new layout gets a fixture by this test too:
/// with `IOT_POSTGRES_FIXTURE=1` and a server in `IOT_POSTGRES_URL` it only fills a schema `fixture` there; then
/// `pg_dump --schema=fixture --inserts --no-owner | grep -v '^\\'`.
#[tokio::test]
async fn the_newest_fixture_is_of_the_present_layout() {
    let mut settings = cluster::fresh();
    if std::env::var_os("IOT_POSTGRES_FIXTURE").is_some() {
        settings.schema = "fixture".to_owned();
        return fill(&open(&settings).await).await;
    }
    fill(&open(&settings).await).await;
    let beside = cluster::connect(&settings).await;
    let released = cluster::fresh();
    let dump = NEWEST.replace("fixture", &released.schema);
    beside.batch_execute(&dump).await.unwrap();
    let columns =
        "SELECT table_name::text || ' ' || column_name::text || ' ' || data_type::text FROM information_schema.columns
        WHERE table_schema = $1 ORDER BY 1";
    let of = async |schema: &str| -> Vec<String> {
        beside.query(columns, &[&schema]).await.unwrap().iter().map(|row| row.get(0)).collect()
    };
    assert_eq!(of(&released.schema).await, of(&settings.schema).await);
    let migrations = "SELECT string_agg(checksum, ' ' ORDER BY number) FROM";
    let of = async |schema: &str| -> String {
        beside.query_one(&format!("{migrations} {schema}.migration"), &[]).await.unwrap().get(0)
    };
    assert_eq!(of(&released.schema).await, of(&settings.schema).await);
}

#[tokio::test]
async fn wrong_settings_are_refused_and_tell_no_secret() {
    let settings = PostgresSettings::new("postgresql://iot:geheim@host:port/x");
    let error = refusal(&settings).await;
    assert!(matches!(error, OpenError::Setting { name: "url", .. }));
    assert!(!format!("{error} {error:?} {settings:?}").contains("geheim"));
    for schema in ["", "Iot", "a\"b", "a b"] {
        let mut settings = cluster::fresh();
        settings.schema = schema.to_owned();
        assert!(matches!(refusal(&settings).await, OpenError::Setting { name: "schema", .. }));
    }
    let nobody = PostgresSettings::new("host=127.0.0.1 port=1 user=iot");
    assert!(matches!(refusal(&nobody).await, OpenError::Unavailable { .. }));
}

async fn refusal(settings: &PostgresSettings) -> OpenError {
    Postgres::open(settings, StoreLimits::default()).await.unwrap_err()
}
