/* SPDX-License-Identifier: Apache-2.0 */
/* The freeze queue (SOM-13): decides for every mutation whether it runs now or is parked, and in which order the parked ones start.
 *
 *            close                in flight = 0             open, deadline, byte bound
 *   OPEN ------------> CLOSING -----------------> FROZEN --------------------------> DRAINING ---> OPEN
 *                         |  open, deadline, byte bound                                 ^   nothing parked
 *                         +-------------------------------------------------------------+
 *
 * Freestanding C11: no allocation, no locks, no clock. The caller holds one lock around every call, owns the entries and passes the
 * time (any monotonic unit, the same throughout). Nothing here waits: who has to wait asks for the state again when told.
 *
 * Order: operations start in the order of their tickets, which is the order in which they were parked. While DRAINING a new arrival
 * is parked as well and its caller is asked to run the oldest entry instead, so the order holds and the queue only gets
 * shorter: however fast operations arrive, it ends.
 */
#ifndef SOMFS_FS_FREEZE_QUEUE_H
#define SOMFS_FS_FREEZE_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Embedded in whatever the caller parks. Belongs to the queue from a fq_arrive() that parks it until fq_take() returns it. */
typedef struct fq_entry {
  struct fq_entry *next;
  uint64_t ticket;
  uint64_t bytes;
} fq_entry;

typedef enum fq_state { FQ_OPEN, FQ_CLOSING, FQ_FROZEN, FQ_DRAINING } fq_state;

/* Why a closed queue opened. */
typedef enum fq_reason {
  FQ_NEVER,   /* it has not been opened since it was last closed */
  FQ_ASKED,   /* fq_open() */
  FQ_DRAIN,   /* operations in flight did not end in time */
  FQ_HOLD,    /* it was held too long */
  FQ_FULL     /* the parked bytes reached their bound */
} fq_reason;

typedef enum fq_verdict {
  FQ_PASS,    /* counted as in flight: run it now, then fq_leave(); the entry was not touched */
  FQ_PARKED,  /* the entry is the queue's now */
  FQ_HELP     /* parked; the caller now takes entries with fq_take() and runs them: one, and on while fq_over() */
} fq_verdict;

typedef struct fq {
  fq_entry *head, *tail;     /* parked, oldest first */
  fq_state state;
  fq_reason reason;
  uint64_t in_flight;        /* passed or taken, not yet left */
  uint64_t next_ticket;      /* of the next entry to be parked; the first is 1 */
  uint64_t parked;
  uint64_t parked_bytes;
  uint64_t max_bytes;        /* reaching it opens the queue */
  uint64_t most_parked;      /* high-water marks since fq_init() */
  uint64_t most_bytes;
  int64_t drain_deadline;    /* while CLOSING */
  int64_t hold_deadline;     /* while CLOSING or FROZEN */
} fq;

void fq_init(fq *q, uint64_t max_bytes);

fq_verdict fq_arrive(fq *q, fq_entry *entry, uint64_t bytes);

/* An operation that passed or was taken is done. True: the queue became FROZEN, tell whoever closed it. */
bool fq_leave(fq *q);

/* OPEN -> CLOSING, or FROZEN at once when nothing is in flight. False (and nothing done) when it is not OPEN. */
bool fq_close(fq *q, int64_t drain_deadline, int64_t hold_deadline);

/* The owner opens it. True: it was FROZEN until now, so everything since the close was one instant. A queue that is
 * CLOSING opens as well, but false is returned; one that has opened by itself stays as it is. */
bool fq_open(fq *q);

/* Opens a queue whose time has come. True: it did. */
bool fq_tick(fq *q, int64_t now);

/* The earlier of the deadlines in force; INT64_MAX when none is. */
int64_t fq_next_deadline(const fq *q);

/* While DRAINING: the oldest entry, counted as in flight: run it, then fq_leave(). Otherwise a null pointer. */
fq_entry *fq_take(fq *q);

/* More is parked than may be: a caller that was told FQ_HELP goes on helping. */
bool fq_over(const fq *q);

#ifdef __cplusplus
}
#endif
#endif
