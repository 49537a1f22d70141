// Reading rows: a scan of the table itself, or a cursor over what the planner shows the user.

#include "pg/nearest/rows.h"

#include <algorithm>

#include "core/text/limits.h"
#include "core/text/message.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/types/types.h"

namespace vkv::nearest {

namespace {

constexpr size_t kBlockBytes = 4 << 20;  // as floats: enough for the helper program to be worth asking
constexpr size_t kLeastRows = 2 * kPanelRows, kMostRows = 16384;

MemoryContext value_context()
{
    return AllocSetContextCreate(CurrentMemoryContext, "exact search: a value", ALLOCSET_DEFAULT_SIZES);
}

class TableRows : public Rows {
public:
    explicit TableRows(const Target &target) : column_(target.column)
    {
        pg_call([&] {
            table_ = table_open(target.relation, NoLock);  // locked before
            slot_ = table_slot_create(table_, nullptr);
            scan_ = table_beginscan(table_, GetActiveSnapshot(), 0, nullptr);
            context_ = value_context();
        });
    }

    bool next(Block *block) override
    {
        pg_call([&] {
            while (!done_ && !block->full()) {
                if (!table_scan_getnextslot(scan_, ForwardScanDirection, slot_)) {
                    done_ = true;
                    break;
                }
                bool null;
                const Datum value = slot_getattr(slot_, column_, &null);
                if (null) continue;
                MemoryContext old = MemoryContextSwitchTo(context_);
                block->take(value, {id_of(&slot_->tts_tid), RelationGetRelid(table_)});
                MemoryContextSwitchTo(old);
                if ((++rows_ & 63) == 0) MemoryContextReset(context_);
                if ((rows_ & 255) == 0) CHECK_FOR_INTERRUPTS();
            }
        });
        return block->rows() > 0;
    }

    void close() override
    {
        pg_call([&] {
            table_endscan(scan_);
            ExecDropSingleTupleTableSlot(slot_);
            table_close(table_, NoLock);  // the lock stays to the end of the transaction
            MemoryContextDelete(context_);
        });
    }

private:
    AttrNumber column_;
    Relation table_ = nullptr;
    TupleTableSlot *slot_ = nullptr;
    TableScanDesc scan_ = nullptr;
    MemoryContext context_ = nullptr;
    uint64_t rows_ = 0;
    bool done_ = false;
};

class PlannedRows : public Rows {
public:
    explicit PlannedRows(const Target &target) : target_(target)
    {
        pg_call([&] {
            const char *column = quote_identifier(get_attname(target.relation, target.column, false));
            StringInfoData sql;
            initStringInfo(&sql);
            appendStringInfo(
                &sql, "SELECT %s, ctid, %s FROM %s WHERE %s IS NOT NULL", column,
                target.shows_tables ? "tableoid" : "NULL::pg_catalog.oid",
                quote_qualified_identifier(get_namespace_name(get_rel_namespace(target.relation)), get_rel_name(target.relation)),
                column);
            SPIPlanPtr plan = SPI_prepare_cursor(sql.data, 0, nullptr, CURSOR_OPT_NO_SCROLL);
            if (!plan) elog(ERROR, "\"%s\" failed: %s", sql.data, SPI_result_code_string(SPI_result));
            portal_ = SPI_cursor_open(nullptr, plan, nullptr, nullptr, true);
            check_same();
            context_ = value_context();
        });
    }

    bool next(Block *block) override
    {
        pg_call([&] {
            while (!done_ && !block->full()) fetch(block);
        });
        return block->rows() > 0;
    }

    void close() override
    {
        pg_call([&] {
            SPI_cursor_close(portal_);
            MemoryContextDelete(context_);
        });
    }

private:
    static constexpr long kFetch = 64;

    // A name may be another relation's by now, and a column of another type.
    void check_same() const
    {
        const auto *planned = linitial_node(PlannedStmt, portal_->stmts);
        TupleDesc desc = portal_->tupDesc;
        if (list_member_oid(planned->relationOids, target_.relation) && desc->natts == 3 &&
            getBaseType(TupleDescAttr(desc, 0)->atttypid) == target_.type && TupleDescAttr(desc, 1)->atttypid == TIDOID &&
            TupleDescAttr(desc, 2)->atttypid == OIDOID)
            return;
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("relation with OID %u was renamed or changed while knn_exact began to read it", target_.relation),
                errhint("Try again."));
    }

    void fetch(Block *block)
    {
        if (at_ == fetched_) {
            if (tuples_) SPI_freetuptable(tuples_);
            MemoryContextReset(context_);
            SPI_cursor_fetch(portal_, true, kFetch);
            CHECK_FOR_INTERRUPTS();
            tuples_ = SPI_tuptable;
            at_ = 0;
            fetched_ = SPI_processed;
            done_ = fetched_ == 0;
            return;
        }
        HeapTuple row = tuples_->vals[at_++];
        bool no_value, no_tid, no_table;
        const Datum value = SPI_getbinval(row, tuples_->tupdesc, 1, &no_value);
        const Datum tid = SPI_getbinval(row, tuples_->tupdesc, 2, &no_tid);
        const Datum table = SPI_getbinval(row, tuples_->tupdesc, 3, &no_table);
        if (no_value) return;
        MemoryContext old = MemoryContextSwitchTo(context_);
        block->take(value, {no_tid ? kNoTid : id_of(reinterpret_cast<ItemPointer>(DatumGetPointer(tid))),
                            no_table ? InvalidOid : DatumGetObjectId(table)});
        MemoryContextSwitchTo(old);
    }

    const Target target_;
    Portal portal_ = nullptr;
    SPITupleTable *tuples_ = nullptr;
    MemoryContext context_ = nullptr;
    uint64_t at_ = 0, fetched_ = 0;
    bool done_ = false;
};

}  // namespace

Block::Block(const Target &target, size_t dim)
    : scalar_(target.scalar), dim_(dim), row_bytes_(dim * (target.scalar == Scalar::f32 ? sizeof(float) : sizeof(uint16_t)))
{
    const size_t rows = std::clamp(kBlockBytes / std::max<size_t>(dim * sizeof(float), 1), kLeastRows, kMostRows);
    values_.resize(rows * row_bytes_);
    ids_.resize(rows);
}

void Block::take(Datum value, RowId id)
{
    const VectorView view = view_of(scalar_, value);
    if (view.dim != dim_) {
        ItemPointerData tid;
        if (id.id != kNoTid) tid_of(id.id, &tid);
        throw Error(
            Errc::data_exception,
            message("different %s dimensions %u and %zu", scalar_ == Scalar::f32 ? kVectorName : kHalfvecName, view.dim, dim_), {},
            id.id == kNoTid
                ? message("A row has %u dimensions, the queries have %zu.", view.dim, dim_)
                : message("Row (%u,%u) has %u dimensions, the queries have %zu.", ItemPointerGetBlockNumberNoCheck(&tid),
                          ItemPointerGetOffsetNumberNoCheck(&tid), view.dim, dim_));
    }
    memcpy(values_.data() + rows_ * row_bytes_, view.data, row_bytes_);
    ids_[rows_++] = id;
}

std::unique_ptr<Rows> open_rows(const Target &target)
{
    if (target.direct) return std::make_unique<TableRows>(target);
    return std::make_unique<PlannedRows>(target);
}

}  // namespace vkv::nearest
