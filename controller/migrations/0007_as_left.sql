-- What deploys left in slots, as far as it is not the image's; gone with the slot.
CREATE TABLE as_left (
    node TEXT NOT NULL,
    disk TEXT NOT NULL,
    slot BIGINT NOT NULL,
    partition TEXT NOT NULL,
    encoded BLOB NOT NULL,
    PRIMARY KEY (node, disk, slot),
    FOREIGN KEY (node, disk, slot) REFERENCES slots (node, disk, slot) ON DELETE CASCADE
);
