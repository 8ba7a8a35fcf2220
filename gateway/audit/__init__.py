"""The record: an append-only log of what was asked, decided and done, that proves itself.

This file imports nothing, so that ``gateway.audit.verify`` loads nothing of the writer.

| module | what it holds |
|---|---|
| ``tlog`` | the RFC 6962 tree, pure |
| ``note`` | signed notes, checkpoints, keys |
| ``records`` | what a record says |
| ``seal`` | facts, encrypted beside their record |
| ``storage`` | the few file operations that the log needs |
| ``segments`` | the file format |
| ``replay`` | reading segments back into the state of a log |
| ``recovery`` | start-up: lock, replay, heal or refuse |
| ``batch`` | records made into the bytes of a batch |
| ``appender`` | batches made durable, segments begun |
| ``writer`` | group commit; ``AuditLog`` |
| ``summary`` | bounded counts of anonymous refusals |
| ``proof`` | receipts |
| ``read`` | finding, following, proving |
| ``verify`` | the independent check |
"""
