// Whose code a caller may run on a table.
#pragma once

#include "pg/boundary/pg.h"

namespace vkv::kv {

struct Trust {
    Oid user, owner;  // who calls, whose table it is
    Oid more;         // a role of the caller that may do what the owner may not: the owner's code is that of somebody else
};

// Of the caller's roles are also those to which code that he runs can go back (RESET ROLE).
Trust trust_of(Oid user, Oid owner);

// Who has the rights of the caller does nothing new with them; the table's owner is believed by all but those who are more.
bool is_trusted(Oid author, const Trust &trust);

// The role of the caller whose rights the author's code would have and the author has not; the user if there is none.
Oid lent_role(Oid user, Oid author);

// Can nobody but trusted roles make triggers on the table, by its owner, its privileges and those of the tables that it is a
// partition of? What was granted once and is not any more leaves no trace.
bool only_trusted_make_triggers(Oid table, const Trust &trust);

// A number that is another after each change of roles and their members that this session has heard of, and the roles besides the
// current one that the caller can go back to. Of functions it need not hear: what is kept says that there are built-in ones and
// ours.
struct TrustChanges {
    uint64_t roles;
    Oid session, login;
    bool operator==(const TrustChanges &) const = default;
};
TrustChanges trust_changes();  // hears what there is to hear

Oid owner_of(Oid table);

// Of the extension that the functions of schema kv belong to?
bool is_ours(Oid extension);

}  // namespace vkv::kv
