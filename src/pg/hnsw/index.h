// An hnsw index as an operation sees it: its shape, its codec, and the few things of the meta page that change.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "pg/hnsw/format.h"
#include "pg/hnsw/pages.h"

namespace vkv::hnsw {

struct Entry {
    uint32_t node;
    int level;
    uint64_t free_epoch;
    XLogRecPtr changed;  // LSN of the meta page
};

class Index {
public:
    // Reads the meta page (or this backend's copy of it) and loads the model. Raises index_corrupted for what is not an index of
    // ours.
    explicit Index(Relation rel);

    Relation rel() const { return rel_; }
    void set_rel(Relation rel) { rel_ = rel; }  // the same index, opened anew
    const Shape &shape() const { return shape_; }
    const Codec &codec() const { return *loaded_->codec; }
    std::span<const uint8_t> model() const { return loaded_->model; }
    Entry entry() const;
    bool same_storage() const { return storage_ == compat::relation_storage(rel_); }

    struct Loaded {
        std::vector<uint8_t> model;
        std::unique_ptr<Codec> codec;
    };

private:
    Relation rel_;
    compat::Storage storage_;
    Shape shape_;
    std::shared_ptr<const Loaded> loaded_;
};

// What an operator class and a column say, before there is an index.
struct Column {
    Scalar scalar;
    Metric metric;
    uint32_t dim;
};
Column column_of(Relation index);  // raises if the column has no dimensions or too many

// The codec of an index.
std::unique_ptr<Codec> open_codec(const Column &column, CodecId id, Linking linking, std::span<const uint8_t> model);

Shape make_shape(const Column &column, uint32_t m, uint32_t ef_construction, CodecId codec, const Codec &instance,
                 uint64_t hash_seed, uint32_t model_bytes, Linking linking);

// The value of an indexed column as core sees it; false if it is not indexed (a zero vector under cosine). May detoast into the
// current context.
bool view_value(const Shape &shape, Datum value, VectorView *view);
VectorView view_datum(Scalar scalar, Datum value);
uint64_t hash_of(const Shape &shape, const VectorView &x);

}  // namespace vkv::hnsw
