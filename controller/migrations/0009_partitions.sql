-- Partitions of disks that images were deployed into; slots are in "slots".
CREATE TABLE deployed_partitions (
    node TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    disk TEXT NOT NULL,
    number BIGINT NOT NULL,
    image TEXT NOT NULL,
    partition TEXT NOT NULL,
    stage TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (node, disk, number)
);
