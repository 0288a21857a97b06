//! Writing: lists of changes, each list in one transaction.

use super::{
    AuditRecord, BOOTS_KEPT_MS, BootRecord, BootSeen, EnrolmentRecord, EventRecord, JobRecord,
    LogRecord, MAX_BOOT_EVENTS, MAX_BOOT_EVENTS_PER_MAC, MAX_DEEDS, MAX_JOBS,
    MAX_LOG_LINES_PER_NODE, NodeRecord, Store, StoreError, TaskRecord,
};
use crate::{
    causes::with_causes,
    jobs::plan::{DiskUse, PartitionUse, SlotStage, SlotUse},
};
use metalcast_shared::{id::NodeId, layout::Layout};
use serde::Serialize;
use sqlx::SqliteConnection;
use std::{collections::BTreeSet, sync::PoisonError, time::Instant};

/// One thing to write.
#[derive(Clone, Debug)]
pub enum Change {
    /// Add a node or change it; its addresses become those of its fingerprint, none of which may be
    /// another node's.
    Node(Box<NodeRecord>),
    /// Forget a node with its slots and addresses.
    ForgetNode(NodeId),
    /// Note a netboot.
    Boot(BootRecord),
    /// Note the use of a token.
    Enrolment(EnrolmentRecord),
    /// Add a job.
    Job(JobRecord),
    /// Add a task or change it.
    Task(Box<TaskRecord>),
    /// Add an event; one that is there already, by the agent's count, stays.
    Event(EventRecord),
    /// What we put into a slot of a node.
    Slot {
        /// The node.
        node: NodeId,
        /// What.
        used: SlotUse,
    },
    /// What a deploy left in a slot that is known to be ours.
    AsLeft {
        /// The node.
        node: NodeId,
        /// The disk, as [`SlotUse::disk`] has it.
        disk: String,
        /// The slot.
        slot: u16,
        /// The image's partition that was put there.
        partition: String,
        /// The encoded [`metalcast_shared::as_left::AsLeft`].
        encoded: Vec<u8>,
    },
    /// What a deploy left on a whole disk that is known to be ours.
    DiskAsLeft {
        /// The node.
        node: NodeId,
        /// The disk, as [`DiskUse::disk`] has it.
        disk: String,
        /// The encoded [`metalcast_shared::as_left::AsLeft`].
        encoded: Vec<u8>,
    },
    /// What we put into partitions of a node's disk that are no slots.
    Partitions {
        /// The node.
        node: NodeId,
        /// What.
        used: Vec<PartitionUse>,
    },
    /// What we made of a whole disk of a node; what lay in slots and partitions of it is gone.
    WholeDisk {
        /// The node.
        node: NodeId,
        /// What.
        used: DiskUse,
    },
    /// A disk gets a partition table, or has it: what lay in slots of other layouts, on all of it, or in
    /// partitions while it had no slots of this one, is gone.
    ForgetOtherLayouts {
        /// The node.
        node: NodeId,
        /// The disk, as [`SlotUse::disk`] has it.
        disk: String,
        /// Its layout from now on.
        layout: Layout,
    },
    /// Note who did what.
    Audit(AuditRecord),
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("our records are maps with text keys")
}

impl Store {
    /// Remembers how the latest write ended.
    async fn watched(
        &self,
        work: impl Future<Output = Result<(), StoreError>>,
    ) -> Result<(), StoreError> {
        let outcome = work.await;
        let trouble = outcome.as_ref().err().map(|error| (Instant::now(), with_causes(error)));
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
        outcome
    }

    /// Writes all changes or none. On return they are on the disk.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn apply(&self, changes: &[Change]) -> Result<(), StoreError> {
        self.watched(self.write_all(changes)).await
    }

    async fn write_all(&self, changes: &[Change]) -> Result<(), StoreError> {
        let mut transaction = self.writer.begin().await?;
        for change in changes {
            write(&mut transaction, change).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Adds lines to the logs and forgets the oldest beyond the limit.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn append_logs(&self, lines: &[LogRecord]) -> Result<(), StoreError> {
        self.watched(self.write_logs(lines)).await
    }

    async fn write_logs(&self, lines: &[LogRecord]) -> Result<(), StoreError> {
        let mut transaction = self.writer.begin().await?;
        for line in lines {
            sqlx::query(
                "INSERT INTO logs (seq, node, job, at, level, line)
                 SELECT COALESCE(MAX(seq), 0) + 1, $1, $2, $3, $4, $5 FROM logs",
            )
            .bind(line.node.to_string())
            .bind(line.job.map(|job| job.0))
            .bind(line.at)
            .bind(json(&line.level))
            .bind(&line.line)
            .execute(&mut *transaction)
            .await?;
        }
        let nodes: BTreeSet<NodeId> = lines.iter().map(|line| line.node).collect();
        for node in nodes {
            sqlx::query(
                "DELETE FROM logs WHERE node = $1 AND seq <= (
                     SELECT seq FROM logs WHERE node = $1 ORDER BY seq DESC LIMIT 1 OFFSET $2)",
            )
            .bind(node.to_string())
            .bind(MAX_LOG_LINES_PER_NODE)
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Adds what the boot services saw and forgets the oldest beyond the limits.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn append_boot_events(&self, seen: &[BootSeen]) -> Result<(), StoreError> {
        self.watched(self.write_boot_events(seen)).await
    }

    async fn write_boot_events(&self, seen: &[BootSeen]) -> Result<(), StoreError> {
        let mut transaction = self.writer.begin().await?;
        for seen in seen {
            sqlx::query(
                "INSERT INTO boot_events (seq, mac, at, what, detail)
                 SELECT COALESCE(MAX(seq), 0) + 1, $1, $2, $3, $4 FROM boot_events",
            )
            .bind(seen.mac.to_string())
            .bind(seen.at)
            .bind(&seen.what)
            .bind(&seen.detail)
            .execute(&mut *transaction)
            .await?;
        }
        let macs: BTreeSet<String> = seen.iter().map(|seen| seen.mac.to_string()).collect();
        for mac in macs {
            sqlx::query(
                "DELETE FROM boot_events WHERE mac = $1 AND seq <= (
                     SELECT seq FROM boot_events WHERE mac = $1
                     ORDER BY seq DESC LIMIT 1 OFFSET $2)",
            )
            .bind(mac)
            .bind(MAX_BOOT_EVENTS_PER_MAC)
            .execute(&mut *transaction)
            .await?;
        }
        sqlx::query("DELETE FROM boot_events WHERE seq <= (SELECT MAX(seq) FROM boot_events) - $1")
            .bind(MAX_BOOT_EVENTS)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Forgets netboots and enrolments that no token can name any more, and the oldest jobs and deeds
    /// beyond the limits.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn forget_old(&self, now: i64) -> Result<(), StoreError> {
        self.watched(self.delete_old(now)).await
    }

    async fn delete_old(&self, now: i64) -> Result<(), StoreError> {
        let before = now.saturating_sub(BOOTS_KEPT_MS);
        let mut transaction = self.writer.begin().await?;
        for statement in ["DELETE FROM boots WHERE at < $1", "DELETE FROM enrolments WHERE at < $1"]
        {
            sqlx::query(statement).bind(before).execute(&mut *transaction).await?;
        }
        for (table, job) in [("events", "job"), ("tasks", "job"), ("jobs", "id")] {
            let statement = format!(
                "DELETE FROM {table}
                 WHERE {job} <= (SELECT id FROM jobs ORDER BY id DESC LIMIT 1 OFFSET $1)
                     AND {job} NOT IN (SELECT job FROM tasks WHERE active = 1)"
            );
            let statement = sqlx::AssertSqlSafe(statement);
            sqlx::query(statement).bind(MAX_JOBS).execute(&mut *transaction).await?;
        }
        sqlx::query("DELETE FROM audit WHERE seq <= (SELECT MAX(seq) FROM audit) - $1")
            .bind(MAX_DEEDS)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }
}

async fn write(db: &mut SqliteConnection, change: &Change) -> Result<(), sqlx::Error> {
    match change {
        Change::Node(node) => write_node(db, node).await,
        Change::ForgetNode(node) => {
            sqlx::query("DELETE FROM nodes WHERE id = $1")
                .bind(node.to_string())
                .execute(db)
                .await?;
            Ok(())
        }
        Change::Boot(boot) => write_boot(db, boot).await,
        Change::Enrolment(enrolment) => write_enrolment(db, enrolment).await,
        Change::Job(job) => write_job(db, job).await,
        Change::Task(task) => write_task(db, task).await,
        Change::Event(event) => write_event(db, event).await,
        Change::Slot { node, used } => write_slot(db, *node, used).await,
        Change::AsLeft { node, disk, slot, partition, encoded } => {
            sqlx::query(
                "INSERT INTO as_left (node, disk, slot, partition, encoded)
                 VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (node, disk, slot) DO UPDATE SET partition = $4, encoded = $5",
            )
            .bind(node.to_string())
            .bind(disk)
            .bind(i64::from(*slot))
            .bind(partition)
            .bind(encoded)
            .execute(db)
            .await?;
            Ok(())
        }
        Change::DiskAsLeft { node, disk, encoded } => {
            sqlx::query(
                "INSERT INTO disks_as_left (node, disk, encoded) VALUES ($1, $2, $3)
                 ON CONFLICT (node, disk) DO UPDATE SET encoded = $3",
            )
            .bind(node.to_string())
            .bind(disk)
            .bind(encoded)
            .execute(db)
            .await?;
            Ok(())
        }
        Change::Partitions { node, used } => {
            for used in used {
                write_partition(db, *node, used).await?;
            }
            Ok(())
        }
        Change::WholeDisk { node, used } => write_whole_disk(db, *node, used).await,
        Change::ForgetOtherLayouts { node, disk, layout } => {
            sqlx::query("DELETE FROM slots WHERE node = $1 AND disk = $2 AND layout <> $3")
                .bind(node.to_string())
                .bind(disk)
                .bind(json(layout))
                .execute(&mut *db)
                .await?;
            sqlx::query("DELETE FROM whole_disks WHERE node = $1 AND disk = $2")
                .bind(node.to_string())
                .bind(disk)
                .execute(&mut *db)
                .await?;
            sqlx::query(
                "DELETE FROM deployed_partitions WHERE node = $1 AND disk = $2
                 AND NOT EXISTS (SELECT 1 FROM slots WHERE node = $1 AND disk = $2)",
            )
            .bind(node.to_string())
            .bind(disk)
            .execute(db)
            .await?;
            Ok(())
        }
        Change::Audit(audit) => {
            sqlx::query(
                "INSERT INTO audit (seq, at, who, what)
                 SELECT COALESCE(MAX(seq), 0) + 1, $1, $2, $3 FROM audit",
            )
            .bind(audit.at)
            .bind(&audit.who)
            .bind(&audit.what)
            .execute(db)
            .await?;
            Ok(())
        }
    }
}

async fn write_node(db: &mut SqliteConnection, node: &NodeRecord) -> Result<(), sqlx::Error> {
    let id = node.id.to_string();
    sqlx::query(
        "INSERT INTO nodes (id, name, state, fingerprint, candidate, inventory, layout,
             default_boot, boot_mac, enrolled, registered, last_seen, key_hash)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
         ON CONFLICT (id) DO UPDATE SET name = $2, state = $3, fingerprint = $4, candidate = $5,
             inventory = $6, layout = $7, default_boot = $8, boot_mac = $9, enrolled = $10,
             registered = $11, last_seen = $12, key_hash = $13",
    )
    .bind(&id)
    .bind(&node.name)
    .bind(json(&node.state))
    .bind(json(&node.fingerprint))
    .bind(node.candidate.as_ref().map(json))
    .bind(node.inventory.as_ref().map(json))
    .bind(&node.layout)
    .bind(json(&node.default_boot))
    .bind(node.boot_mac.to_string())
    .bind(node.enrolled)
    .bind(node.registered)
    .bind(node.last_seen)
    .bind(node.key.to_string())
    .execute(&mut *db)
    .await?;
    sqlx::query("DELETE FROM node_macs WHERE node = $1").bind(&id).execute(&mut *db).await?;
    for mac in &node.fingerprint.macs {
        sqlx::query("INSERT INTO node_macs (mac, node) VALUES ($1, $2)")
            .bind(mac.to_string())
            .bind(&id)
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}

async fn write_boot(db: &mut SqliteConnection, boot: &BootRecord) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO boots (boot, mac, node, at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (boot) DO NOTHING",
    )
    .bind(boot.boot.to_string())
    .bind(boot.mac.to_string())
    .bind(boot.node.map(|node| node.to_string()))
    .bind(boot.at)
    .execute(db)
    .await?;
    Ok(())
}

async fn write_enrolment(
    db: &mut SqliteConnection,
    enrolment: &EnrolmentRecord,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO enrolments (boot, key_hash, node, at) VALUES ($1, $2, $3, $4)")
        .bind(enrolment.boot.to_string())
        .bind(enrolment.key.to_string())
        .bind(enrolment.node.to_string())
        .bind(enrolment.at)
        .execute(db)
        .await?;
    Ok(())
}

async fn write_job(db: &mut SqliteConnection, job: &JobRecord) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO jobs (id, spec, created, created_by, netboot_limit)
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(job.id.0)
    .bind(json(&job.spec))
    .bind(job.created)
    .bind(&job.created_by)
    .bind(job.netboot_limit_ms)
    .execute(db)
    .await?;
    Ok(())
}

async fn write_task(db: &mut SqliteConnection, task: &TaskRecord) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO tasks (job, node, node_name, work, generation, state, active, changed)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (job, node) DO UPDATE SET
             work = $4, generation = $5, state = $6, active = $7, changed = $8",
    )
    .bind(task.job.0)
    .bind(task.node.to_string())
    .bind(&task.node_name)
    .bind(json(&task.work))
    .bind(i64::from(task.life.generation))
    .bind(json(&task.life.state))
    .bind(i64::from(!task.life.state.has_ended()))
    .bind(task.changed)
    .execute(db)
    .await?;
    Ok(())
}

async fn write_event(db: &mut SqliteConnection, event: &EventRecord) -> Result<(), sqlx::Error> {
    // "WHERE true" keeps SQLite from reading ON CONFLICT as a join's condition.
    sqlx::query(
        "INSERT INTO events (seq, job, node, generation, number, at, event)
         SELECT COALESCE(MAX(seq), 0) + 1, $1, $2, $3, $4, $5, $6 FROM events WHERE true
         ON CONFLICT (job, node, generation, number) DO NOTHING",
    )
    .bind(event.job.0)
    .bind(event.node.to_string())
    .bind(i64::from(event.generation))
    .bind(event.number.map(i64::from))
    .bind(event.at)
    .bind(json(&event.what))
    .execute(db)
    .await?;
    Ok(())
}

async fn write_slot(
    db: &mut SqliteConnection,
    node: NodeId,
    used: &SlotUse,
) -> Result<(), sqlx::Error> {
    if used.stage == SlotStage::Writing {
        // What an earlier deploy left is gone.
        sqlx::query("DELETE FROM as_left WHERE node = $1 AND disk = $2 AND slot = $3")
            .bind(node.to_string())
            .bind(&used.disk)
            .bind(i64::from(used.slot))
            .execute(&mut *db)
            .await?;
    }
    sqlx::query(
        "INSERT INTO slots (node, disk, slot, layout, image, stage, at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (node, disk, slot) DO UPDATE SET layout = $4, image = $5, stage = $6, at = $7",
    )
    .bind(node.to_string())
    .bind(&used.disk)
    .bind(i64::from(used.slot))
    .bind(json(&used.layout))
    .bind(used.image.to_string())
    .bind(json(&used.stage))
    .bind(used.at_unix_ms)
    .execute(db)
    .await?;
    Ok(())
}

async fn write_partition(
    db: &mut SqliteConnection,
    node: NodeId,
    used: &PartitionUse,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO deployed_partitions (node, disk, number, image, partition, stage, at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (node, disk, number) DO UPDATE SET image = $4, partition = $5, stage = $6, at = $7",
    )
    .bind(node.to_string())
    .bind(&used.disk)
    .bind(i64::from(used.number))
    .bind(used.image.to_string())
    .bind(&used.partition)
    .bind(json(&used.stage))
    .bind(used.at_unix_ms)
    .execute(db)
    .await?;
    Ok(())
}

async fn write_whole_disk(
    db: &mut SqliteConnection,
    node: NodeId,
    used: &DiskUse,
) -> Result<(), sqlx::Error> {
    if used.stage == SlotStage::Writing {
        sqlx::query("DELETE FROM deployed_partitions WHERE node = $1 AND disk = $2")
            .bind(node.to_string())
            .bind(&used.disk)
            .execute(&mut *db)
            .await?;
        // What an earlier deploy left is gone.
        sqlx::query("DELETE FROM disks_as_left WHERE node = $1 AND disk = $2")
            .bind(node.to_string())
            .bind(&used.disk)
            .execute(&mut *db)
            .await?;
    }
    sqlx::query("DELETE FROM slots WHERE node = $1 AND disk = $2")
        .bind(node.to_string())
        .bind(&used.disk)
        .execute(&mut *db)
        .await?;
    sqlx::query(
        "INSERT INTO whole_disks (node, disk, table_id, image, stage, at)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (node, disk) DO UPDATE SET table_id = $3, image = $4, stage = $5, at = $6",
    )
    .bind(node.to_string())
    .bind(&used.disk)
    .bind(json(&used.table))
    .bind(used.image.to_string())
    .bind(json(&used.stage))
    .bind(used.at_unix_ms)
    .execute(db)
    .await?;
    Ok(())
}
