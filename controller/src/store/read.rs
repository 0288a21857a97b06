//! Reading.

use super::{
    AuditRecord, BootRecord, BootSeen, EnrolmentRecord, EventRecord, JobRecord, LogRecord,
    NodeRecord, Noted, Store, StoreError, TaskRecord,
};
use crate::jobs::{
    plan::{DiskUse, PartitionUse, SlotUse},
    task::Life,
};
use metalcast_shared::{
    event::TaskEvent,
    hash::Hash,
    id::{BootId, JobId, Mac, NodeId},
};
use serde::de::DeserializeOwned;
use sqlx::{Row, sqlite::SqliteRow};

/// Most rows of a list.
pub const MAX_ROWS: i64 = 10_000;

/// Bytes of a broken value that an error quotes.
const QUOTED: usize = 120;

fn corrupt(what: &'static str, text: &str) -> StoreError {
    StoreError::Corrupt { what, text: text.chars().take(QUOTED).collect() }
}

fn text(row: &SqliteRow, column: &str) -> Result<String, StoreError> {
    Ok(row.try_get::<String, _>(column)?)
}

fn parsed<T: std::str::FromStr>(
    row: &SqliteRow,
    column: &str,
    what: &'static str,
) -> Result<T, StoreError> {
    let text = text(row, column)?;
    text.parse().map_err(|_| corrupt(what, &text))
}

fn node_id(row: &SqliteRow, column: &str) -> Result<NodeId, StoreError> {
    parsed(row, column, "node id").map(NodeId)
}

fn json<T: DeserializeOwned>(
    row: &SqliteRow,
    column: &str,
    what: &'static str,
) -> Result<T, StoreError> {
    let text = text(row, column)?;
    serde_json::from_str(&text).map_err(|_| corrupt(what, &text))
}

fn optional_json<T: DeserializeOwned>(
    row: &SqliteRow,
    column: &str,
    what: &'static str,
) -> Result<Option<T>, StoreError> {
    let text: Option<String> = row.try_get(column)?;
    text.map(|text| serde_json::from_str(&text).map_err(|_| corrupt(what, &text))).transpose()
}

fn number<T: TryFrom<i64>>(
    row: &SqliteRow,
    column: &str,
    what: &'static str,
) -> Result<T, StoreError> {
    let number: i64 = row.try_get(column)?;
    T::try_from(number).map_err(|_| corrupt(what, &number.to_string()))
}

fn node(row: &SqliteRow) -> Result<NodeRecord, StoreError> {
    Ok(NodeRecord {
        id: node_id(row, "id")?,
        name: text(row, "name")?,
        state: json(row, "state", "node state")?,
        fingerprint: json(row, "fingerprint", "fingerprint")?,
        candidate: optional_json(row, "candidate", "fingerprint")?,
        key: key_hash(row)?,
        inventory: optional_json(row, "inventory", "inventory")?,
        layout: row.try_get("layout")?,
        default_boot: json(row, "default_boot", "boot plan")?,
        boot_mac: parsed(row, "boot_mac", "MAC address")?,
        enrolled: row.try_get("enrolled")?,
        registered: row.try_get("registered")?,
        last_seen: row.try_get("last_seen")?,
    })
}

fn job(row: &SqliteRow) -> Result<JobRecord, StoreError> {
    Ok(JobRecord {
        id: JobId(row.try_get("id")?),
        spec: json(row, "spec", "job")?,
        created: row.try_get("created")?,
        created_by: text(row, "created_by")?,
        netboot_limit_ms: row.try_get("netboot_limit")?,
    })
}

fn task(row: &SqliteRow) -> Result<TaskRecord, StoreError> {
    Ok(TaskRecord {
        job: JobId(row.try_get("job")?),
        node: node_id(row, "node")?,
        node_name: text(row, "node_name")?,
        work: json(row, "work", "task")?,
        life: Life {
            state: json(row, "state", "task state")?,
            generation: number(row, "generation", "generation")?,
        },
        changed: row.try_get("changed")?,
    })
}

fn event(row: &SqliteRow) -> Result<EventRecord, StoreError> {
    let number: Option<i64> = row.try_get("number")?;
    Ok(EventRecord {
        seq: row.try_get("seq")?,
        job: JobId(row.try_get("job")?),
        node: node_id(row, "node")?,
        generation: self::number(row, "generation", "generation")?,
        number: number.and_then(|number| u32::try_from(number).ok()),
        at: row.try_get("at")?,
        what: json(row, "event", "event")?,
    })
}

fn slot(row: &SqliteRow) -> Result<SlotUse, StoreError> {
    Ok(SlotUse {
        disk: text(row, "disk")?,
        slot: number(row, "slot", "slot")?,
        layout: json(row, "layout", "layout")?,
        image: parsed(row, "image", "image revision")?,
        stage: json(row, "stage", "slot stage")?,
        at_unix_ms: row.try_get("at")?,
    })
}

fn whole_disk(row: &SqliteRow) -> Result<DiskUse, StoreError> {
    Ok(DiskUse {
        disk: text(row, "disk")?,
        table: json(row, "table_id", "table id")?,
        image: parsed(row, "image", "image revision")?,
        stage: json(row, "stage", "stage of a whole disk")?,
        at_unix_ms: row.try_get("at")?,
    })
}

fn partition(row: &SqliteRow) -> Result<PartitionUse, StoreError> {
    Ok(PartitionUse {
        disk: text(row, "disk")?,
        number: number(row, "number", "number of a partition")?,
        image: parsed(row, "image", "image revision")?,
        partition: text(row, "partition")?,
        stage: json(row, "stage", "stage of a partition")?,
        at_unix_ms: row.try_get("at")?,
    })
}

fn log(row: &SqliteRow) -> Result<LogRecord, StoreError> {
    let job: Option<i64> = row.try_get("job")?;
    Ok(LogRecord {
        node: node_id(row, "node")?,
        job: job.map(JobId),
        at: row.try_get("at")?,
        level: json(row, "level", "log level")?,
        line: text(row, "line")?,
    })
}

fn key_hash(row: &SqliteRow) -> Result<Hash, StoreError> {
    let key = text(row, "key_hash")?;
    hash(&key).ok_or_else(|| corrupt("key hash", &key))
}

fn hash(text: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(Hash(hash))
}

/// Every query fails when the database cannot be read or holds what we did not write.
impl Store {
    /// All nodes, by name.
    pub async fn nodes(&self) -> Result<Vec<NodeRecord>, StoreError> {
        let rows =
            sqlx::query("SELECT * FROM nodes ORDER BY name").fetch_all(&self.readers).await?;
        rows.iter().map(node).collect()
    }

    /// The netboot of this id.
    pub async fn boot(&self, boot: BootId) -> Result<Option<BootRecord>, StoreError> {
        let row = sqlx::query("SELECT * FROM boots WHERE boot = $1")
            .bind(boot.to_string())
            .fetch_optional(&self.readers)
            .await?;
        row.map(|row| {
            let node: Option<String> = row.try_get("node")?;
            let node = node
                .map(|text| text.parse().map(NodeId).map_err(|_| corrupt("node id", &text)))
                .transpose()?;
            let mac = parsed(&row, "mac", "MAC address")?;
            Ok(BootRecord { boot, mac, node, at: row.try_get("at")? })
        })
        .transpose()
    }

    /// The use of the token of this netboot.
    pub async fn enrolment(&self, boot: BootId) -> Result<Option<EnrolmentRecord>, StoreError> {
        let row = sqlx::query("SELECT * FROM enrolments WHERE boot = $1")
            .bind(boot.to_string())
            .fetch_optional(&self.readers)
            .await?;
        row.map(|row| {
            let (key, node) = (key_hash(&row)?, node_id(&row, "node")?);
            Ok(EnrolmentRecord { boot, key, node, at: row.try_get("at")? })
        })
        .transpose()
    }

    /// The newest jobs, newest first.
    pub async fn jobs(&self, limit: i64) -> Result<Vec<JobRecord>, StoreError> {
        let rows = sqlx::query("SELECT * FROM jobs ORDER BY id DESC LIMIT $1")
            .bind(limit.clamp(0, MAX_ROWS))
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(job).collect()
    }

    /// A job.
    pub async fn job(&self, id: JobId) -> Result<Option<JobRecord>, StoreError> {
        let row = sqlx::query("SELECT * FROM jobs WHERE id = $1")
            .bind(id.0)
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(job).transpose()
    }

    /// The number of the newest job, 0 if there is none.
    pub async fn last_job(&self) -> Result<i64, StoreError> {
        let row = sqlx::query("SELECT COALESCE(MAX(id), 0) AS id FROM jobs")
            .fetch_one(&self.readers)
            .await?;
        Ok(row.try_get("id")?)
    }

    /// The tasks of a job, by the nodes' names.
    pub async fn tasks(&self, job: JobId) -> Result<Vec<TaskRecord>, StoreError> {
        let rows = sqlx::query("SELECT * FROM tasks WHERE job = $1 ORDER BY node_name")
            .bind(job.0)
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(task).collect()
    }

    /// A task.
    pub async fn task(&self, job: JobId, node: NodeId) -> Result<Option<TaskRecord>, StoreError> {
        let row = sqlx::query("SELECT * FROM tasks WHERE job = $1 AND node = $2")
            .bind(job.0)
            .bind(node.to_string())
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(task).transpose()
    }

    /// All tasks that have not ended.
    pub async fn active_tasks(&self) -> Result<Vec<TaskRecord>, StoreError> {
        let rows =
            sqlx::query("SELECT * FROM tasks WHERE active = 1").fetch_all(&self.readers).await?;
        rows.iter().map(task).collect()
    }

    /// Events of a job after position `after`, in order.
    pub async fn events(
        &self,
        job: JobId,
        after: i64,
        limit: i64,
    ) -> Result<Vec<EventRecord>, StoreError> {
        let rows =
            sqlx::query("SELECT * FROM events WHERE job = $1 AND seq > $2 ORDER BY seq LIMIT $3")
                .bind(job.0)
                .bind(after)
                .bind(limit.clamp(0, MAX_ROWS))
                .fetch_all(&self.readers)
                .await?;
        rows.iter().map(event).collect()
    }

    /// The last number of a hand-out's events that is kept, 0 if none is.
    pub async fn last_number(
        &self,
        job: JobId,
        node: NodeId,
        generation: u32,
    ) -> Result<u32, StoreError> {
        let row = sqlx::query(
            "SELECT COALESCE(MAX(number), 0) AS number FROM events
             WHERE job = $1 AND node = $2 AND generation = $3",
        )
        .bind(job.0)
        .bind(node.to_string())
        .bind(i64::from(generation))
        .fetch_one(&self.readers)
        .await?;
        number(&row, "number", "event number")
    }

    /// Whether an agent said this in any hand-out of a task.
    pub async fn was_said(
        &self,
        job: JobId,
        node: NodeId,
        what: &TaskEvent,
    ) -> Result<bool, StoreError> {
        let what = serde_json::to_string(&Noted::Agent(what.clone()));
        let row = sqlx::query(
            "SELECT EXISTS (SELECT 1 FROM events WHERE job = $1 AND node = $2 AND event = $3) AS said",
        )
        .bind(job.0)
        .bind(node.to_string())
        .bind(what.expect("our records are maps with text keys"))
        .fetch_one(&self.readers)
        .await?;
        Ok(row.try_get("said")?)
    }

    /// What we put into the slots of a node.
    pub async fn slots(&self, node: NodeId) -> Result<Vec<SlotUse>, StoreError> {
        let rows = sqlx::query("SELECT * FROM slots WHERE node = $1 ORDER BY disk, slot")
            .bind(node.to_string())
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(slot).collect()
    }

    /// The partition that a deploy put into a slot, and what it left there, encoded; if that is known.
    pub async fn as_left(
        &self,
        node: NodeId,
        disk: &str,
        slot: u16,
    ) -> Result<Option<(String, Vec<u8>)>, StoreError> {
        let row = sqlx::query(
            "SELECT partition, encoded FROM as_left WHERE node = $1 AND disk = $2 AND slot = $3",
        )
        .bind(node.to_string())
        .bind(disk)
        .bind(i64::from(slot))
        .fetch_optional(&self.readers)
        .await?;
        row.map(|row| Ok((text(&row, "partition")?, row.try_get("encoded")?))).transpose()
    }

    /// What a deploy left on a whole disk, encoded; if that is known.
    pub async fn disk_as_left(
        &self,
        node: NodeId,
        disk: &str,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let row = sqlx::query("SELECT encoded FROM disks_as_left WHERE node = $1 AND disk = $2")
            .bind(node.to_string())
            .bind(disk)
            .fetch_optional(&self.readers)
            .await?;
        row.map(|row| Ok(row.try_get("encoded")?)).transpose()
    }

    /// Disks of a node that we deployed as a whole.
    pub async fn whole_disks(&self, node: NodeId) -> Result<Vec<DiskUse>, StoreError> {
        let rows = sqlx::query("SELECT * FROM whole_disks WHERE node = $1 ORDER BY disk")
            .bind(node.to_string())
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(whole_disk).collect()
    }

    /// Partitions of a node's disks that we deployed into; not its slots.
    pub async fn partitions(&self, node: NodeId) -> Result<Vec<PartitionUse>, StoreError> {
        let query = "SELECT * FROM deployed_partitions WHERE node = $1 ORDER BY disk, number";
        let rows = sqlx::query(query).bind(node.to_string()).fetch_all(&self.readers).await?;
        rows.iter().map(partition).collect()
    }

    /// Log lines of a job in order, the newest `limit` of them.
    pub async fn job_logs(&self, job: JobId, limit: i64) -> Result<Vec<LogRecord>, StoreError> {
        let rows = sqlx::query("SELECT * FROM logs WHERE job = $1 ORDER BY seq DESC LIMIT $2")
            .bind(job.0)
            .bind(limit.clamp(0, MAX_ROWS))
            .fetch_all(&self.readers)
            .await?;
        rows.iter().rev().map(log).collect()
    }

    /// Log lines of a node in order, the newest `limit` of them.
    pub async fn node_logs(&self, node: NodeId, limit: i64) -> Result<Vec<LogRecord>, StoreError> {
        let rows = sqlx::query("SELECT * FROM logs WHERE node = $1 ORDER BY seq DESC LIMIT $2")
            .bind(node.to_string())
            .bind(limit.clamp(0, MAX_ROWS))
            .fetch_all(&self.readers)
            .await?;
        rows.iter().rev().map(log).collect()
    }

    /// What the boot services saw of an address since `since`, in order.
    pub async fn boot_events(&self, mac: Mac, since: i64) -> Result<Vec<BootSeen>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM boot_events WHERE mac = $1 AND at >= $2 ORDER BY at, seq LIMIT $3",
        )
        .bind(mac.to_string())
        .bind(since)
        .bind(MAX_ROWS)
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                let (what, detail) = (text(row, "what")?, text(row, "detail")?);
                Ok(BootSeen { mac, at: row.try_get("at")?, what, detail })
            })
            .collect()
    }

    /// Who did what, in order, the newest `limit` of it.
    pub async fn audit(&self, limit: i64) -> Result<Vec<AuditRecord>, StoreError> {
        let rows = sqlx::query("SELECT * FROM audit ORDER BY seq DESC LIMIT $1")
            .bind(limit.clamp(0, MAX_ROWS))
            .fetch_all(&self.readers)
            .await?;
        rows.iter()
            .rev()
            .map(|row| {
                Ok(AuditRecord {
                    at: row.try_get("at")?,
                    who: text(row, "who")?,
                    what: text(row, "what")?,
                })
            })
            .collect()
    }
}
