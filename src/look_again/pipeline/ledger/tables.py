"""The tables of a run's ledger.

rows: what came in, refused ones included. results: each stage's word on each item (a row and the number of a sample).
requests: what was asked of endpoints and what came back. attempts: each time one went out, written before it goes.
sessions: each time a process worked on the run. claims, decisions: people's; decisions are only ever added to.
"""

from __future__ import annotations

VERSION = 1

TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rows (
  n INTEGER PRIMARY KEY, origin TEXT NOT NULL, position INTEGER NOT NULL, id TEXT NOT NULL, verdict TEXT NOT NULL,
  reason TEXT, digest TEXT NOT NULL, content TEXT, UNIQUE (origin, position));
CREATE UNIQUE INDEX IF NOT EXISTS row_ids ON rows (id) WHERE verdict = 'ok';
CREATE INDEX IF NOT EXISTS row_verdicts ON rows (verdict);
CREATE TABLE IF NOT EXISTS results (
  stage TEXT NOT NULL, n INTEGER NOT NULL, sample INTEGER NOT NULL, status TEXT NOT NULL, input TEXT NOT NULL,
  digest TEXT NOT NULL, output TEXT NOT NULL, reason TEXT, at REAL NOT NULL, PRIMARY KEY (stage, n, sample));
CREATE INDEX IF NOT EXISTS result_states ON results (stage, status, n, sample);
CREATE TABLE IF NOT EXISTS requests (
  key TEXT PRIMARY KEY, stage TEXT NOT NULL, n INTEGER NOT NULL, sample INTEGER NOT NULL, ask INTEGER NOT NULL,
  endpoint TEXT NOT NULL, model TEXT NOT NULL, prompt TEXT NOT NULL, reply TEXT, answered_by INTEGER,
  tokens_in INTEGER, tokens_out INTEGER, cost REAL);
CREATE INDEX IF NOT EXISTS requests_of ON requests (stage, n);
CREATE TABLE IF NOT EXISTS attempts (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL, session INTEGER NOT NULL, sent_at REAL NOT NULL, ended_at REAL,
  outcome TEXT);
CREATE INDEX IF NOT EXISTS attempts_of ON attempts (key);
CREATE INDEX IF NOT EXISTS attempts_open ON attempts (outcome) WHERE outcome IS NULL;
CREATE TABLE IF NOT EXISTS sessions (
  id INTEGER PRIMARY KEY, command TEXT NOT NULL, started REAL NOT NULL, ended REAL, outcome TEXT,
  interrupted INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS claims (
  n INTEGER NOT NULL, sample INTEGER NOT NULL, reviewer TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (n, sample));
CREATE INDEX IF NOT EXISTS claims_of ON claims (reviewer);
CREATE TABLE IF NOT EXISTS decisions (
  id INTEGER PRIMARY KEY, n INTEGER NOT NULL, sample INTEGER NOT NULL, input TEXT NOT NULL, reviewer TEXT NOT NULL,
  action TEXT NOT NULL, response TEXT, note TEXT NOT NULL, undoes INTEGER, at REAL NOT NULL, hash TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS decisions_on ON decisions (n, sample);
"""
