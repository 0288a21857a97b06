-- What deploys left on whole disks; gone with what is known of the disk.
CREATE TABLE disks_as_left (
    node TEXT NOT NULL,
    disk TEXT NOT NULL,
    encoded BLOB NOT NULL,
    PRIMARY KEY (node, disk),
    FOREIGN KEY (node, disk) REFERENCES whole_disks (node, disk) ON DELETE CASCADE
);

-- Their form is another now.
DELETE FROM as_left;

-- Comparisons have a source: before, all were of slots.
UPDATE tasks SET work = json_set(
    json_remove(work, '$.partition', '$.layout', '$.slot'),
    '$.source', json_object('slot', json_object(
        'layout', json_extract(work, '$.layout'),
        'slot', json_extract(work, '$.slot'),
        'partition', json_extract(work, '$.partition'))),
    '$.as_left', NULL)
WHERE json_extract(work, '$.kind') = 'compare' AND json_extract(work, '$.source') IS NULL;
