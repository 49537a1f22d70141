// Page tables of extents: which tiles there are, and in which slots they lie.
#include "gpu/page_tables.h"

#include <algorithm>
#include <climits>

namespace vkv::gpu {

using offload::Entry;

namespace {

// Entries without tiles cost memory, too: so many for each slot, all tables together.
constexpr size_t kEntriesPerSlot = 8, kLeastEntries = size_t{1} << 20;

int32_t end_of(const Entry &e) { return e.first + e.tokens; }

std::vector<std::vector<Entry>> by_head(std::span<const Entry> entries, uint32_t heads)
{
    std::vector<std::vector<Entry>> out(heads);
    for (std::vector<Entry> &of_head : out) of_head.reserve(entries.size() / heads + 1);
    for (const Entry &e : entries) out[e.head].push_back(e);
    return out;
}

// The entry that begins at `first`, if there is one.
const Entry *entry_at(const std::vector<Entry> &entries, int32_t first)
{
    const auto found =
        std::lower_bound(entries.begin(), entries.end(), first, [](const Entry &e, int32_t at) { return e.first < at; });
    return found != entries.end() && found->first == first ? &*found : nullptr;
}

}  // namespace

Table::Head::Range Table::Head::range(int32_t from, int32_t to) const
{
    const auto begins_behind = [](int32_t at, const Entry &e) { return at < e.first; };
    auto begin = std::upper_bound(entries.begin(), entries.end(), from, begins_behind);
    if (begin != entries.begin() && end_of(*(begin - 1)) > from) --begin;
    const auto end = std::upper_bound(begin, entries.end(), to - 1, begins_behind);
    return {static_cast<uint32_t>(begin - entries.begin()), static_cast<uint32_t>(end - entries.begin())};
}

int32_t Table::begin() const
{
    int32_t at = 0;
    for (const Head &head : heads) at = std::max(at, head.entries.empty() ? INT32_MAX : head.entries.front().first);
    return at;
}

int32_t Table::covered() const
{
    int32_t at = INT32_MAX;
    for (const Head &head : heads) at = std::min(at, head.entries.empty() ? 0 : end_of(head.entries.back()));
    return at;
}

size_t PageTables::Hash::operator()(const TableKey &k) const
{
    uint64_t x = k.space ^ (k.extent * 0x9E3779B97F4A7C15u) ^ (uint64_t{k.layer} << 40);
    x = (x ^ (x >> 31)) * 0xBF58476D1CE4E5B9u;
    return x ^ (x >> 29);
}

PageTables::Found PageTables::find(const offload::Span &span, std::span<const Entry> brought, const TileKind &kind, bool settle)
{
    const Entries entries = by_head(brought, kind.heads);
    const TableKey key{span.space, span.extent, span.layer};
    const bool brings_all = span.entries_from <= span.from && !brought.empty();
    const Found everything{nullptr, span.from}, alone{};
    const auto known = tables_.find(key);
    if (known == tables_.end()) return brings_all ? Found{make(key, kind, entries), -1} : everything;
    Table *table = known->second.get();
    const Fit fits = table->kind != kind ? Fit::contradiction : brought.empty() ? Fit::apart : fit(*table, entries);
    if (fits == Fit::contradiction) {
        if (!brings_all) return everything;
        if (table->pins) return alone;
        drop(table);
        return {make(key, kind, entries), -1};
    }
    if (fits == Fit::together) extend(table, entries);
    if (table->begin() > span.from) return brings_all ? alone : everything;
    if (table->covered() >= span.to) return {table, -1};
    if (settle) return brings_all ? alone : everything;
    return {nullptr, table->covered()};
}

// Together: they overlap or touch, and where they overlap they say the same. Apart: they leave a gap behind the table.
PageTables::Fit PageTables::fit(const Table &table, const Entries &entries)
{
    bool apart = false;
    for (uint32_t h = 0; h < table.heads.size(); h++) {
        const std::vector<Entry> &have = table.heads[h].entries, &brought = entries[h];
        if (have.empty() || brought.empty() || end_of(brought.back()) < have.front().first) return Fit::contradiction;
        if (brought.front().first > end_of(have.back())) apart = true;
        for (const Entry &e : brought) {
            if (e.first >= end_of(have.back())) break;
            if (e.first < have.front().first && end_of(e) <= have.front().first) continue;
            const Entry *same = entry_at(have, e.first);
            if (!same || same->tokens != e.tokens || same->id != e.id) return Fit::contradiction;
        }
    }
    return apart ? Fit::apart : Fit::together;
}

void PageTables::extend(Table *table, const Entries &entries)
{
    for (uint32_t h = 0; h < table->heads.size(); h++) extend_head(table, h, entries[h]);
    shed(table);
}

void PageTables::extend_head(Table *table, uint32_t h, const std::vector<Entry> &entries)
{
    Table::Head &head = table->heads[h];
    size_t before = 0, behind = 0;
    for (const Entry &e : entries) {
        if (head.entries.empty() || e.first >= end_of(head.entries.back()))
            behind++;
        else if (e.first < head.entries.front().first)
            before++;
    }
    head.entries.insert(head.entries.end(), entries.end() - static_cast<ptrdiff_t>(behind), entries.end());
    head.entries.insert(head.entries.begin(), entries.begin(), entries.begin() + static_cast<ptrdiff_t>(before));
    head.slots.insert(head.slots.begin(), before, kNoSlot);
    head.bytes.insert(head.bytes.begin(), before, 0);
    head.slots.resize(head.entries.size(), kNoSlot);
    head.bytes.resize(head.entries.size(), 0);
    table->missing += static_cast<uint32_t>(before + behind);
    entries_ += before + behind;
    if (before == 0) return;
    for (size_t i = before; i < head.slots.size(); i++)
        if (head.slots[i] < kReserved) cache_->move_page(head.slots[i] & ~kFilling, static_cast<uint32_t>(i));
}

Table *PageTables::make(const TableKey &key, const TileKind &kind, const Entries &entries)
{
    auto table = std::make_unique<Table>();
    table->key = key;
    table->kind = kind;
    table->heads.resize(kind.heads);
    Table *made = table.get();
    tables_[key] = std::move(table);
    extend(made, entries);
    return made;
}

void PageTables::drop(Table *table)
{
    for (Table::Head &head : table->heads) {
        entries_ -= head.entries.size();
        for (const uint32_t slot : head.slots)
            if (slot < kReserved) cache_->drop(slot & ~kFilling);
    }
    cache_->forget(table);
    tables_.erase(TableKey(table->key));
}

void PageTables::drop_emptied()
{
    std::vector<Table *> emptied = cache_->take_emptied();
    std::sort(emptied.begin(), emptied.end());
    emptied.erase(std::unique(emptied.begin(), emptied.end()), emptied.end());
    for (Table *table : emptied)
        if (table->held == 0 && table->pins == 0) drop(table);
}

void PageTables::shed(const Table *keep)
{
    const size_t most = std::max(kLeastEntries, kEntriesPerSlot * cache_->slots());
    if (entries_ <= most) return;
    std::vector<Table *> idle;
    for (const auto &[key, table] : tables_)
        if (table->pins == 0 && table.get() != keep) idle.push_back(table.get());
    std::sort(idle.begin(), idle.end(), [](const Table *a, const Table *b) { return a->used < b->used; });
    for (Table *table : idle) {
        if (entries_ <= most / 8 * 7) break;
        drop(table);
    }
}

}  // namespace vkv::gpu
