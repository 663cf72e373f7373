// Package boltstore is the engine of store.Store that ships with Herald: one bbolt file.
//
// It promises what the contract asks for: a change is on disk and visible when its method returns,
// changes of many callers share commits, secrets are encrypted in the file, and the paths that every
// event takes (Select, TokenByHash, Subscription) are answered from memory. Deleting an account takes
// everything of it away in one commit.
//
// # The file
//
// Beside the bucket of boltkit, which says that this is a "herald store" and of which version:
//
//	bucket                          key              value
//	account                         account id       account
//	account_gone                    account id       deleted account
//	token                           token id         token
//	token_hash                      hash, 32 bytes   token id
//	token_account/<account>         token id         empty
//	resource/<account>              type NUL id      resource
//	subscription                    id, 16 bytes     subscription
//	subscription_account/<account>  id, 16 bytes     empty
//	key                             check            sealed text that tells whether a key is the right one
//	key                             probe            written to find out whether a full disk has room again
//
// The id of a deleted account stays in account_gone for good and is refused to a new one, which could
// otherwise read what the queue still keeps of the old one. No id is in both account and account_gone.
//
// An account has its three nested buckets as long as it exists. The sequence number of
// subscription_account/<account> is how many subscriptions it holds, so that the limit is checked
// without counting.
//
// # The values
//
// Every value of account, account_gone, token and resource begins with a version byte, 1, and every value of
// subscription with 2. A file or a value of a newer version is refused. A subscription of version 1, which
// ends with the time of its state, is read, and becomes one of version 2 with its next change. Members follow in this order: text and bytes with their length
// before them as an unsigned varint, numbers as zigzag varints, truth as one byte 0 or 1, a list as the
// number of its elements and the elements, a time as 0 for none, or 1, the seconds since 1970 (zigzag
// varint) and the nanoseconds (unsigned varint).
//
//	account          name, suspended, created
//	deleted account  when it was deleted
//	token            account, name, scopes, hash (32 bytes, no length), created, expires
//	resource         name
//	subscription     clear part (as bytes), then to the end of the value the sealed part
//
// The clear part of a subscription: account, created, updated, export format, number of records, longest
// wait (ns), resource, events, payload, method, type of authentication, user name, name, timeout (ns),
// retry schedule, concurrency, state, its reason, its time; then, from version 2 on, the filter as text (empty
// for none), the rate limit (8 bytes, IEEE 754, big-endian), the burst, ordering, ordering key, whether
// disabling is set, after which duration (ns) and how many failures, what becomes of deliveries when disabled,
// whether they are being discarded, and the health: failing since, failures, breaker opened, probes, next
// probe, warned of, notice, its time; of the validation what is confirmed, its expiry, attempts, next attempt and last
// error; of the authentication token URL, client id and scopes; of the client certificate whether it is Herald's, and the
// chain; and whether pushes have a message signature. The sealed part: callback URL, and of the authentication token, password and value, then the signing secrets, each key
// and expiry; and from version 2 on validation URL, validation secret, client secret, key of the client
// certificate, and of each signing secret whether it is an asymmetric one.
//
// # The secrets
//
// A sealed part is 12 random bytes and what AES-256-GCM made with them as nonce and the key of
// secrets.key_file. The associated data is the bucket's name, the record's key and the member's name,
// each with its length before it, and then the clear part: a sealed part moved to another record, or
// beside another clear part, does not open. Access tokens are not in the file at all, only
// their SHA-256.
package boltstore
