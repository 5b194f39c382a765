/* SPDX-License-Identifier: Apache-2.0 */
#include "freeze_queue.h"

static bool closed(const fq *q) { return q->state == FQ_CLOSING || q->state == FQ_FROZEN; }

static void open_for(fq *q, fq_reason reason) {
  q->state = q->head != NULL ? FQ_DRAINING : FQ_OPEN;
  q->reason = reason;
}

void fq_init(fq *q, uint64_t max_bytes) {
  q->head = NULL;
  q->tail = NULL;
  q->state = FQ_OPEN;
  q->reason = FQ_NEVER;
  q->in_flight = 0;
  q->next_ticket = 1;
  q->parked = 0;
  q->parked_bytes = 0;
  q->max_bytes = max_bytes;
  q->most_parked = 0;
  q->most_bytes = 0;
  q->drain_deadline = 0;
  q->hold_deadline = 0;
}

fq_verdict fq_arrive(fq *q, fq_entry *entry, uint64_t bytes) {
  if (q->state == FQ_OPEN) {
    q->in_flight++;
    return FQ_PASS;
  }
  entry->next = NULL;
  entry->ticket = q->next_ticket++;
  entry->bytes = bytes;
  if (q->tail != NULL)
    q->tail->next = entry;
  else
    q->head = entry;
  q->tail = entry;
  q->parked++;
  q->parked_bytes += bytes;
  if (q->parked > q->most_parked) q->most_parked = q->parked;
  if (q->parked_bytes > q->most_bytes) q->most_bytes = q->parked_bytes;
  if (closed(q) && fq_over(q)) open_for(q, FQ_FULL);
  return q->state == FQ_DRAINING ? FQ_HELP : FQ_PARKED;
}

bool fq_leave(fq *q) {
  q->in_flight--;
  if (q->state != FQ_CLOSING || q->in_flight != 0) return false;
  q->state = FQ_FROZEN;
  return true;
}

bool fq_close(fq *q, int64_t drain_deadline, int64_t hold_deadline) {
  if (q->state != FQ_OPEN) return false;
  q->state = q->in_flight == 0 ? FQ_FROZEN : FQ_CLOSING;
  q->reason = FQ_NEVER;
  q->drain_deadline = drain_deadline;
  q->hold_deadline = hold_deadline;
  return true;
}

bool fq_open(fq *q) {
  bool held = q->state == FQ_FROZEN;
  if (closed(q)) open_for(q, FQ_ASKED);
  return held;
}

bool fq_tick(fq *q, int64_t now) {
  if (q->state == FQ_CLOSING && now >= q->drain_deadline) {
    open_for(q, FQ_DRAIN);
    return true;
  }
  if (closed(q) && now >= q->hold_deadline) {
    open_for(q, FQ_HOLD);
    return true;
  }
  return false;
}

int64_t fq_next_deadline(const fq *q) {
  if (q->state == FQ_CLOSING && q->drain_deadline < q->hold_deadline) return q->drain_deadline;
  return closed(q) ? q->hold_deadline : INT64_MAX;
}

fq_entry *fq_take(fq *q) {
  fq_entry *entry = q->head;
  if (q->state != FQ_DRAINING) return NULL;
  q->head = entry->next;
  if (q->head == NULL) {
    q->tail = NULL;
    q->state = FQ_OPEN;
  }
  entry->next = NULL;
  q->parked--;
  q->parked_bytes -= entry->bytes;
  q->in_flight++;
  return entry;
}

bool fq_over(const fq *q) { return q->parked_bytes > q->max_bytes; }
