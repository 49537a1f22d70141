// The inner loops of attention over tiles: one table per instruction set, chosen once for each tile added (attend.cpp).
//
// Two ways through a tile. Direct kernels (scores, values) read the words where they lie, for up to kRowsAtOnce rows of queries:
// halves are converted in registers, codes too (AVX2) or multiplied as bytes against digits of the queries and of the weights
// (AVX-512 VNNI: a product of 24-bit queries is three byte products; without VNNI that is more work than converting a code and
// multiplying floats). Blocks are the general way: 16 tokens are decoded into a scratch of floats that stays in the first-level
// cache and serves all rows: keys that await their rotary embedding, values that are keys, and codes that so many rows share that
// each is better converted once.
//
// Included by the files of the instruction sets: nothing but types here.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/kv/tile.h"
#include "core/simd/kernels.h"

namespace vkv::kv {

inline constexpr int kRowsAtOnce = 4;    // rows of queries that a direct kernel takes
inline constexpr int kBlock = 16;        // tokens of a block
inline constexpr int kScorePad = 32;     // rows of scores are padded to a multiple of this (tokens of the widest word)
inline constexpr int kRowPad = 64;       // floats that rows of queries are padded to a multiple of
inline constexpr int kMostTokens = 256;  // that 32-bit sums of byte products of weights hold

// A tile, and the levels of its codec if it is rotated.
struct TileJob {
    const TileView *tile = nullptr;
    const int8_t *levels = nullptr;
};

// Memory that will be needed soon: kernels fetch lines of it along the way.
struct Ahead {
    const uint8_t *at = nullptr, *end = nullptr;
};

// Rows of queries in the basis of a tile, scaled. Digits: q = step * (digit0 + 256 digit1 + 65536 digit2), digits signed bytes.
struct QueryRows {
    const float *q = nullptr;  // [rows][stride], zeros beyond the dimension

    const uint32_t *digits = nullptr;     // [rows][stride / 4][4]: word i of four = digit i of four dims (word 3 is zero)
    const int32_t *digit_sums = nullptr;  // [rows][stride / kRowPad][4]: sums over kRowPad dims
    const float *steps = nullptr;         // [rows]
    size_t stride = 0;                    // a multiple of kRowPad
    int rows = 0;
};

// out [rows][stride] = scores of all tokens of the tile; stride a multiple of kScorePad, beyond the tokens anything may be written.
struct ScoreJob {
    TileJob job;
    QueryRows queries;
    float *out = nullptr;
    size_t stride = 0;
    Ahead *ahead = nullptr;  // never null
};

// o [rows][o_stride] += weights * values. weights [rows][stride], zero beyond the tokens, up to a multiple of kBlock. o_stride:
// multiple of 16.
struct ValueJob {
    TileJob job;
    const float *weights = nullptr;
    size_t stride = 0;
    int rows = 0;
    float *o = nullptr;
    size_t o_stride = 0;
    Ahead *ahead = nullptr;  // never null
};

// One step of the online softmax: scores [rows][stride] become weights exp(score - m), zero beyond the tokens up to a multiple of
// kBlock; what is behind that may change.
struct SoftmaxJob {
    float *scores = nullptr;
    size_t stride = 0;
    int rows = 0, tokens = 0;
    float *m = nullptr;        // [rows], largest score so far
    float *l = nullptr;        // [rows][16], sums of weights in lanes
    float *factors = nullptr;  // [rows], written: what sums so far must be multiplied with
};

// Digits of one row of queries, as in QueryRows: q [stride] -> digits [stride], sums [stride / kRowPad][4], *step.
struct DigitJob {
    const float *q = nullptr;
    size_t stride = 0;
    uint32_t *digits = nullptr;
    int32_t *sums = nullptr;
    float *step = nullptr;
};

// `count` tokens from token t0 (a multiple of 16) on. Keys: out [dim_k][16], lanes beyond count zero. Values: out [count][stride].
struct DecodeJob {
    TileJob job;
    int t0 = 0, count = 0;
    float *out = nullptr;
    size_t stride = 0;
};

// A decoded block of keys and the rows that are scored with it: out [rows][stride], 16 floats of each.
struct BlockScores {
    const float *block = nullptr;
    int dim = 0;
    QueryRows queries;
    float *out = nullptr;
    size_t stride = 0;
};

// o [rows][o_stride] += weights [rows][stride], `count` of each, times block [count][o_stride].
struct BlockValues {
    const float *block = nullptr;
    int count = 0;
    const float *weights = nullptr;
    size_t stride = 0;
    int rows = 0;
    float *o = nullptr;
    size_t o_stride = 0;
};

// Rotary embedding of a block: pair i turns by the angle of (cosine[i], sine[i]) and further by that of (cosines[i][lane], ...).
// Its dims are first * i + ... : i and i + pairs, or 2 i and 2 i + 1 when interleaved.
struct RopeBlock {
    float *block = nullptr;
    int pairs = 0;
    bool interleaved = false;
    const float *cosine = nullptr, *sine = nullptr;    // [pairs]
    const float *cosines = nullptr, *sines = nullptr;  // [pairs][16]
};

struct AttendKernels {
    void (*scores[kCodecs])(const ScoreJob &);  // null: through blocks; at most kRowsAtOnce rows; 64 bytes behind keys are read
    void (*values[kCodecs])(const ValueJob &);  // null: through blocks; codes: at most kMostTokens tokens
    void (*decode_keys[kCodecs])(const DecodeJob &);
    void (*decode_values[kCodecs])(const DecodeJob &);
    void (*block_scores)(const BlockScores &);
    void (*block_values)(const BlockValues &);
    void (*rope_block)(const RopeBlock &);
    bool (*softmax)(const SoftmaxJob &);  // whether a factor is not 1
    void (*digits)(const DigitJob &);     // null: no kernel wants them
    int most_rows_of_codes;               // that direct kernels of codes take; more go through blocks

    void (*softcap)(float *x, size_t n, float cap);   // n a multiple of 16
    void (*hadamard)(float *x, int p);                // orthonormal, in place; p a power of two, at least kBlock
    void (*scale)(float *x, size_t n, float factor);  // n a multiple of 16
    void (*shift)(float *x, size_t n, float by);      // n a multiple of 16
};

const AttendKernels &attend_kernels(simd::Level level);

extern const AttendKernels kPlainAttend;  // the instruction set that the whole build is for
#if defined(__x86_64__)
extern const AttendKernels kAvx2Attend;
extern const AttendKernels kAvx512Attend;
#endif

}  // namespace vkv::kv
