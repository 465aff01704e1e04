-- What `enroll` of commit 8b34092 (release 0.1.0) left in ledger.sqlite, as `.dump` prints it: $NAMES stand for what differs from run to run.
CREATE TABLE devices (
    name               TEXT PRIMARY KEY,
    identity           TEXT NOT NULL,
    destination        TEXT NOT NULL,
    host_key_algorithm TEXT NOT NULL,
    host_key           TEXT NOT NULL,
    key_origin         TEXT NOT NULL,
    agent              TEXT,
    serial             TEXT,
    not_after          INTEGER NOT NULL,
    enrolled_at        INTEGER NOT NULL,
    renewed_at         INTEGER,
    revoked_at         INTEGER,
    revocation_reason  TEXT,
    record             TEXT NOT NULL
);
INSERT INTO devices VALUES('device1','spiffe://journey.example/ns/default/sa/device1','$destination','ssh-ed25519','$host_key','device','0.1.0-a61355dc0d18','$serial',$not_after,$enrolled_at,NULL,NULL,NULL,'{"agent":{"path":"$base/bootstrap/0.1.0-a61355dc0d18/bootstrap","sha256":"a61355dc0d18f6ff37951c3100f1cd19082f91b166019060164a1cb638570a2c","state":"$base/bootstrap/state"},"destination":"$destination","enrolledAt":$enrolled_at,"hbone":["127.0.0.1:$hbone_port"],"hostKey":{"algorithm":"ssh-ed25519","fingerprint":"$host_key"},"identity":"spiffe://journey.example/ns/default/sa/device1","lifetime":86400,"name":"device1","notAfter":$not_after,"roots":["$root"],"serial":"$serial","ssh":{"configurationFile":"$ssh_config","identityFiles":["$user_key"],"options":["UserKnownHostsFile=$known_hosts"]}}');
CREATE TABLE certificates (
    issuer      TEXT NOT NULL,
    serial      TEXT NOT NULL,
    identity    TEXT NOT NULL,
    device      TEXT,
    not_before  INTEGER NOT NULL,
    not_after   INTEGER NOT NULL,
    issued_at   INTEGER NOT NULL,
    command     TEXT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('issued', 'superseded', 'revoked')),
    changed_at  INTEGER,
    reason      TEXT,
    PRIMARY KEY (issuer, serial)
);
INSERT INTO certificates VALUES('$issuer','$serial','spiffe://journey.example/ns/default/sa/device1','device1',$not_before,$not_after,$enrolled_at,'enroll','issued',NULL,NULL);
CREATE TABLE events (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    at       INTEGER NOT NULL,
    operator TEXT NOT NULL,
    command  TEXT NOT NULL,
    device   TEXT,
    identity TEXT,
    serial   TEXT,
    what     TEXT NOT NULL
);
INSERT INTO events VALUES(1,$enrolled_at,'root@vm','enroll','device1','spiffe://journey.example/ns/default/sa/device1','$serial','issued until 2026-11-30T10:33:38Z');
INSERT INTO events VALUES(2,$enrolled_at,'root@vm','enroll','device1','spiffe://journey.example/ns/default/sa/device1','$serial','enrolled');
CREATE TABLE notes (key TEXT PRIMARY KEY, value TEXT NOT NULL);
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES('events',2);
CREATE INDEX devices_destination ON devices (destination);
CREATE INDEX devices_identity ON devices (identity);
CREATE INDEX certificates_serial ON certificates (serial);
CREATE INDEX certificates_device ON certificates (device);
CREATE INDEX certificates_identity ON certificates (identity);
CREATE INDEX events_device ON events (device);
PRAGMA application_id = 1112757324;
PRAGMA user_version = 1;
