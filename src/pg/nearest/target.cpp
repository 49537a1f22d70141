// Looking at the relation and the column that knn_exact was given. All frames hold trivial locals only.

#include "pg/nearest/target.h"

#include "pg/boundary/open_relation.h"
#include "pg/boundary/pg.h"

namespace vkv::nearest {

namespace {

constexpr char kVirtualColumn = 'v';  // attgenerated since PostgreSQL 18: the planner computes it

// Is this the type `name` beside vector?
bool is_sibling(Oid type, Oid vector_type, const char *name)
{
    HeapTuple tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(vector_type));
    if (!HeapTupleIsValid(tuple)) elog(ERROR, "cache lookup failed for type %u", vector_type);
    const Oid schema = reinterpret_cast<Form_pg_type>(GETSTRUCT(tuple))->typnamespace;
    ReleaseSysCache(tuple);
    return type == GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum(name), ObjectIdGetDatum(schema));
}

Scalar scalar_of(Oid type, Oid vector_type, const char *column)
{
    if (type == vector_type) return Scalar::f32;
    if (is_sibling(type, vector_type, "halfvec")) return Scalar::f16;
    if (type == BITOID || type == VARBITOID || is_sibling(type, vector_type, "sparsevec"))
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("knn_exact does not search type %s, which column \"%s\" has", format_type_be(type), column),
                        errhint("It searches vector and halfvec; for others use ORDER BY with the operator.")));
    ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
                    errmsg("column \"%s\" is of type %s, not vector or halfvec", column, format_type_be(type))));
}

bool one_plain_table(Relation rel, AttrNumber column)
{
    const Form_pg_class form = rel->rd_rel;
    if (form->relkind != RELKIND_RELATION && form->relkind != RELKIND_MATVIEW) return false;
    if (form->relhassubclass || !RelationIsScannable(rel) || RELATION_IS_OTHER_TEMP(rel)) return false;
    return TupleDescAttr(RelationGetDescr(rel), column - 1)->attgenerated != kVirtualColumn;
}

// A view says which row a row is only where its columns do.
void look_at_view(Relation rel, Target *target)
{
    const AttrNumber ctid = get_attnum(target->relation, "ctid"), table = get_attnum(target->relation, "tableoid");
    if (ctid <= 0 || get_atttype(target->relation, ctid) != TIDOID)
        ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
                        errmsg("view \"%s\" has no column \"ctid\" that names the rows found", RelationGetRelationName(rel)),
                        errhint("Add ctid, and tableoid where it reads several tables, to the columns of the view.")));
    target->shows_tables = table > 0 && get_atttype(target->relation, table) == OIDOID;
}

}  // namespace

Target find_target(Oid relation, const char *column, Oid vector_type)
{
    Target target;
    target.relation = relation;
    Relation rel = open_existing(relation, AccessShareLock);
    switch (rel->rd_rel->relkind) {
        case RELKIND_RELATION:
        case RELKIND_MATVIEW:
        case RELKIND_PARTITIONED_TABLE:
        case RELKIND_FOREIGN_TABLE:
        case RELKIND_VIEW:
            break;
        default:
            ereport(ERROR,
                    (errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("\"%s\" is not a table or view", RelationGetRelationName(rel))));
    }
    target.column = get_attnum(relation, column);
    if (target.column == InvalidAttrNumber)
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
                        errmsg("column \"%s\" of relation \"%s\" does not exist", column, RelationGetRelationName(rel))));
    const Oid type = target.type =
        target.column > 0 ? getBaseType(get_atttype(relation, target.column)) : get_atttype(relation, target.column);
    target.scalar = scalar_of(type, vector_type, column);
    if (rel->rd_rel->relkind == RELKIND_VIEW) look_at_view(rel, &target);
    if (one_plain_table(rel, target.column) && check_enable_rls(relation, InvalidOid, false) == RLS_NONE) {
        compat::check_may_read(rel, {target.column, SelfItemPointerAttributeNumber});
        target.direct = true;
    }
    relation_close(rel, NoLock);
    return target;
}

}  // namespace vkv::nearest
