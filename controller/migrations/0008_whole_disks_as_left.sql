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
