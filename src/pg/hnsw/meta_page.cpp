// What a meta page says of its index, checked before it is believed.

#include "pg/hnsw/meta_page.h"

#include <cmath>
#include <string>

#include "core/codec/whiten.h"
#include "core/graph/candidate.h"
#include "pg/hnsw/hnsw.h"
#include "pg/hnsw/pages.h"
#include "pg/types/types.h"

namespace vkv::hnsw {

namespace {

constexpr uint32_t kMaxBitDim = 64000;

// Never 0, which says that there is none.
uint32_t checksum_of(std::span<const uint8_t> bytes)
{
    pg_crc32c crc;
    INIT_CRC32C(crc);
    COMP_CRC32C(crc, bytes.data(), bytes.size());
    FIN_CRC32C(crc);
    return std::max<uint32_t>(crc, 1);
}

uint32_t checksum_of(const MetaPage &m)
{
    std::vector<uint8_t> bytes;
    auto add = [&](const auto &field) {
        const auto *p = reinterpret_cast<const uint8_t *>(&field);
        bytes.insert(bytes.end(), p, p + sizeof(field));
    };
    add(m.dim);
    add(m.m);
    add(m.ef_construction);
    add(m.codec);
    add(m.scalar);
    add(m.metric);
    add(m.hash_seed);
    add(m.model_bytes);
    add(m.model_first);
    add(m.scored_base);
    add(m.scored_slope);
    add(m.built_nodes);
    add(m.linking);
    add(m.model_checksum);
    return checksum_of(bytes);
}

// An index older than the checksum is judged by ranges.
bool is_sane(const MetaPage &m)
{
    if (m.checksum != 0 && m.checksum != checksum_of(m)) return false;
    if (m.scalar > static_cast<uint8_t>(Scalar::sparse) || m.metric > static_cast<uint8_t>(Metric::jaccard)) return false;
    const auto scalar = static_cast<Scalar>(m.scalar);
    const auto metric = static_cast<Metric>(m.metric);
    const auto codec = static_cast<CodecId>(m.codec);
    const auto linking = static_cast<Linking>(m.linking);
    auto is_count = [](float x) { return std::isfinite(x) && x >= 0; };
    return codec_supports(codec, scalar, metric) && m.m >= kMinM && m.m <= kMaxM && m.dim > 0 && m.dim <= dim_limit(scalar) &&
           m.ef_construction >= kMinEfConstruction && m.ef_construction <= kMaxEfConstruction &&
           (linking == Linking::distance || (linking == Linking::direction && direction_supports(codec, scalar, metric))) &&
           is_count(m.scored_base) && is_count(m.scored_slope) && m.built_nodes < kNoNode;
}

}  // namespace

uint32_t dim_limit(Scalar scalar)
{
    return scalar == Scalar::bit ? kMaxBitDim : scalar == Scalar::sparse ? kMaxSparseDim : kMaxDim;
}

MetaPage make_meta(const Shape &s)
{
    MetaPage m{};
    m.magic = kMagic;
    m.version = kVersion;
    m.dim = s.dim;
    m.m = static_cast<uint16_t>(s.m);
    m.ef_construction = static_cast<uint16_t>(s.ef_construction);
    m.codec = static_cast<uint8_t>(s.codec);
    m.scalar = static_cast<uint8_t>(s.scalar);
    m.metric = static_cast<uint8_t>(s.metric);
    m.linking = static_cast<uint8_t>(s.linking);
    m.paths = static_cast<uint8_t>(Paths::whole);
    m.entry = kNoNode;
    m.entry_level = -1;
    m.hash_seed = s.hash_seed;
    m.model_bytes = s.model_bytes;
    m.model_first = InvalidBlockNumber;
    for (BlockNumber &b : m.free_list) b = InvalidBlockNumber;
    for (BlockNumber &b : m.directory) b = InvalidBlockNumber;
    return m;
}

void seal_meta(MetaPage *meta, std::span<const uint8_t> model)
{
    meta->model_checksum = meta->model_bytes > 0 ? checksum_of(model) : 0;
    meta->checksum = checksum_of(*meta);
}

const char *fault_of_entry(const MetaPage &meta)
{
    if (meta.entry == kNoNode || (meta.entry_level >= 0 && meta.entry_level <= graph::kMaxLevel)) return nullptr;
    return "an entry point on a level that there is not";
}

const char *fault_of_directory(const MetaPage &meta)
{
    if (meta.directory_pages == 0) return meta.hash_depth == 0 ? nullptr : "a hash directory without pages";
    if (meta.directory_pages <= kMaxDirectoryPages && meta.hash_depth < 32 &&
        meta.directory_pages == std::max((1u << meta.hash_depth) / kDirectoryEntries, 1u))
        return nullptr;
    return "a hash directory whose depth and pages do not fit";
}

MetaPage read_meta(Relation rel, ForkNumber fork)
{
    ReadPage page(rel, kMetaBlock, PageKind::meta, fork);
    const MetaPage meta = *meta_of(page.page());
    if (meta.magic != kMagic) corrupted(rel, kMetaBlock, "no meta page");
    if (meta.version != kVersion)
        throw Error(Errc::index_corrupted,
                    "index \"" + std::string(RelationGetRelationName(rel)) + "\" has version " + std::to_string(meta.version) +
                        " of the page format; this library reads version " + std::to_string(kVersion),
                    "Rebuild it: REINDEX INDEX.");
    if (!is_sane(meta)) corrupted(rel, kMetaBlock, "parameters that make no sense");
    return meta;
}

std::vector<uint8_t> read_model(Relation rel, const MetaPage &meta)
{
    const BlockNumber blocks = pg_call([&] { return RelationGetNumberOfBlocks(rel); });
    if (meta.model_bytes > static_cast<uint64_t>(blocks) * kPageRoom) corrupted(rel, kMetaBlock, "a model larger than the index");
    std::vector<uint8_t> model;
    for (BlockNumber block = meta.model_first; model.size() < meta.model_bytes;) {
        if (!BlockNumberIsValid(block)) corrupted(rel, kMetaBlock, "the model ends early");
        ReadPage page(rel, block, PageKind::model);
        const size_t n = std::min<size_t>(kPageRoom, meta.model_bytes - model.size());
        model.insert(model.end(), page.page() + kPageBegin, page.page() + kPageBegin + n);
        block = page.opaque()->next;
    }
    if (meta.model_checksum != 0 && meta.model_checksum != checksum_of(model))
        corrupted(rel, meta.model_first, "the model is not what was written");
    return model;
}

void set_paths(Relation rel, Paths paths)
{
    WritePages pages(rel);
    meta_of(pages.lock(kMetaBlock, PageKind::meta))->paths = static_cast<uint8_t>(paths);
    pages.commit();
}

}  // namespace vkv::hnsw
