// See hidden_rows.h. All frames hold trivial locals only.

#include "pg/hnsw/hidden_rows.h"

namespace vkv::hnsw {

namespace {

// Functions for any type at all may call what belongs to the type they are given.
bool is_plain(Oid type) { return type == CSTRINGOID || get_typtype(type) != TYPTYPE_PSEUDO; }

bool may_call_others(Oid function, void *context)
{
    const Oid extension = *static_cast<const Oid *>(context);
    HeapTuple row = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
    if (!HeapTupleIsValid(row)) return true;
    const auto form = reinterpret_cast<Form_pg_proc>(GETSTRUCT(row));
    const Oid schema = form->pronamespace, language = form->prolang;
    bool plain = is_plain(form->prorettype);
    for (int i = 0; i < form->pronargs; ++i) plain = plain && is_plain(form->proargtypes.values[i]);
    ReleaseSysCache(row);
    if (!plain) return true;
    if (schema == PG_CATALOG_NAMESPACE) return false;
    return language != ClanguageId || !OidIsValid(extension) || getExtensionOfObject(ProcedureRelationId, function) != extension;
}

// Domains have checks of their owners; what else is not listed is not known.
bool find_others_code(Node *node, void *context)
{
    if (!node) return false;
    switch (nodeTag(node)) {
        case T_List:
        case T_Var:
        case T_Const:
        case T_FuncExpr:
        case T_OpExpr:
        case T_RelabelType:
        case T_CoerceViaIO:
        case T_ArrayCoerceExpr:
        case T_CaseTestExpr:
        case T_ArrayExpr:
        case T_CoalesceExpr:
            break;
        default:
            return true;
    }
    return check_functions_in_node(node, may_call_others, context) || compat::walk_expression(node, find_others_code, context);
}

// The columns that the expressions take, of every row.
bool may_read(Oid table, Oid user, List *expressions)
{
    if (check_enable_rls(table, user, true) == RLS_ENABLED) return false;
    if (pg_class_aclcheck(table, user, ACL_SELECT) == ACLCHECK_OK) return true;
    Bitmapset *columns = nullptr;
    pull_varattnos(reinterpret_cast<Node *>(expressions), 1, &columns);
    for (int i = -1; (i = bms_next_member(columns, i)) >= 0;) {
        const int column = i + FirstLowInvalidHeapAttributeNumber;
        if (column == InvalidAttrNumber) return false;  // the row as a whole
        if (pg_attribute_aclcheck(table, static_cast<AttrNumber>(column), user, ACL_SELECT) != ACLCHECK_OK) return false;
    }
    return true;
}

// A role that owns the table could let itself see them, and one that sees all of a partitioned table sees its partitions.
bool may_see_all_rows(Relation heap, List *expressions)
{
    const Oid table = RelationGetRelid(heap), user = GetUserId();
    if (compat::owns_relation(table, user) || may_read(table, user, expressions)) return true;
    if (!heap->rd_rel->relispartition) return false;
    ListCell *cell;
    foreach (cell, get_partition_ancestors(table)) {
        const Oid ancestor = lfirst_oid(cell);
        if (check_enable_rls(ancestor, user, true) != RLS_ENABLED && pg_class_aclcheck(ancestor, user, ACL_SELECT) == ACLCHECK_OK)
            return true;
    }
    return false;
}

}  // namespace

bool may_compute_on_any_row(Relation heap, Relation index, List *expressions)
{
    Oid extension = getExtensionOfObject(AccessMethodRelationId, index->rd_rel->relam);
    return !find_others_code(reinterpret_cast<Node *>(expressions), &extension) || may_see_all_rows(heap, expressions);
}

}  // namespace vkv::hnsw
