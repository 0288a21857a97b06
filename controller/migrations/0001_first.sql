-- TEXT and BIGINT only, so that the same statements run on PostgreSQL. Times are milliseconds since
-- 1970-01-01 UTC. What only our own code looks into is JSON.

CREATE TABLE nodes (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    candidate TEXT,
    -- Of the latest enrolment: certificates for other keys open nothing.
    key_hash TEXT NOT NULL,
    inventory TEXT,
    layout TEXT,
    default_boot TEXT NOT NULL,
    boot_mac TEXT NOT NULL,
    enrolled BIGINT NOT NULL,
    registered BIGINT,
    last_seen BIGINT NOT NULL
);

CREATE TABLE node_macs (
    mac TEXT NOT NULL PRIMARY KEY,
    node TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE
);
CREATE INDEX node_macs_by_node ON node_macs (node);

-- One row per boot script that led into the RAM image; node is whom it was expected of.
CREATE TABLE boots (
    boot TEXT NOT NULL PRIMARY KEY,
    mac TEXT NOT NULL,
    node TEXT,
    at BIGINT NOT NULL
);

-- The consumption of enrolment tokens: the first key that came with a boot keeps it.
CREATE TABLE enrolments (
    boot TEXT NOT NULL PRIMARY KEY,
    key_hash TEXT NOT NULL,
    node TEXT NOT NULL,
    at BIGINT NOT NULL
);

CREATE TABLE jobs (
    id BIGINT NOT NULL PRIMARY KEY,
    spec TEXT NOT NULL,
    created BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    netboot_limit BIGINT NOT NULL
);

CREATE TABLE tasks (
    job BIGINT NOT NULL REFERENCES jobs (id),
    node TEXT NOT NULL,
    node_name TEXT NOT NULL,
    work TEXT NOT NULL,
    generation BIGINT NOT NULL,
    state TEXT NOT NULL,
    active BIGINT NOT NULL,
    changed BIGINT NOT NULL,
    PRIMARY KEY (job, node)
);
-- A node has one unfinished task at most.
CREATE UNIQUE INDEX tasks_active ON tasks (node) WHERE active = 1;

CREATE TABLE events (
    seq BIGINT NOT NULL PRIMARY KEY,
    job BIGINT NOT NULL,
    node TEXT NOT NULL,
    generation BIGINT NOT NULL,
    -- The agent's own count; NULL for what the controller itself noted.
    number BIGINT,
    at BIGINT NOT NULL,
    event TEXT NOT NULL,
    UNIQUE (job, node, generation, number)
);
CREATE INDEX events_by_job ON events (job, seq);

CREATE TABLE logs (
    seq BIGINT NOT NULL PRIMARY KEY,
    node TEXT NOT NULL,
    job BIGINT,
    at BIGINT NOT NULL,
    level TEXT NOT NULL,
    line TEXT NOT NULL
);
CREATE INDEX logs_by_node ON logs (node, seq);
CREATE INDEX logs_by_job ON logs (job, seq);

CREATE TABLE slots (
    node TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    disk TEXT NOT NULL,
    slot BIGINT NOT NULL,
    layout TEXT NOT NULL,
    image TEXT NOT NULL,
    stage TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (node, disk, slot)
);

CREATE TABLE boot_events (
    seq BIGINT NOT NULL PRIMARY KEY,
    mac TEXT NOT NULL,
    at BIGINT NOT NULL,
    what TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX boot_events_by_mac ON boot_events (mac, at);

CREATE TABLE audit (
    seq BIGINT NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL,
    who TEXT NOT NULL,
    what TEXT NOT NULL
);
