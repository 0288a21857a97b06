-- Disks that were deployed as a whole; what is in slots of a disk is in "slots".
CREATE TABLE whole_disks (
    node TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    disk TEXT NOT NULL,
    table_id TEXT NOT NULL,
    image TEXT NOT NULL,
    stage TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (node, disk)
);
