/* SPDX-License-Identifier: Apache-2.0 */
/* queries.h - what the context's queries look like on average, and from where the next ones will look: shared by the
 * scores expected, expected-stats and cap. Inside presses/ only. */
#ifndef PLATEN_PRESSES_QUERIES_H
#define PLATEN_PRESSES_QUERIES_H

#include "presses/press.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Mean and covariance per query head, device, after the mean rotation of the next `future` positions. */
struct query_stats {
    float *mean; /* [H][D] */
    float *cov;  /* [H][D][D], or NULL */
};

/* How many queries the part has. */
int64_t query_count(const struct press_round *round);

/* Of the part's queries (the whole context's, where no part is scored) from its row `sink` on. */
enum status query_stats_of(struct press_round *round, int64_t sink, int64_t future, bool cov, struct query_stats *out,
                           struct err *err);

/* Of given ones: host mean [H][D], cov [H][D][D] or NULL. */
enum status query_stats_given(struct press_round *round, const float *mean, const float *cov, int64_t future,
                              struct query_stats *out, struct err *err);

/* Whether the back end has what the functions of this file use, but query_stats, score_expected and row_squares. */
enum status query_admit(const struct press_stage *stage, const struct press_door *door, struct err *err);

/* The rest of expected attention: scores of the view. */
struct expected_options {
    int64_t future, sink;
    bool cov, vnorm;
    double eps;
};
enum status expected_score_with(struct press_round *round, const struct kv_rows *view, const struct query_stats *stats,
                                const struct expected_options *o, float *score, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
