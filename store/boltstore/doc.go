// Package boltstore is the engine of store.Store that ships with Herald: one bbolt file.
//
// It promises what the contract asks for: a change is on disk and visible when its method returns,
// changes of many callers share commits, secrets are encrypted in the file, and the paths that every
// event takes (Select, TokenByHash, Subscription, Implementation) are answered from memory. Deleting an account takes
// everything of it away in one commit, but for devices, of which there may be millions: those of a deleted implementation or
// account are seen by nobody from that commit on, and removed little by little by a goroutine within Run. Devices are kept in the
// file alone; memory does not grow with them.
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
//	implementation/<account>        implementation   implementation
//	                                id
//	implementation_number           number           account NUL implementation id
//	device                          device id        device
//	device_token                    token key        device id
//	device_contact                  account NUL      empty
//	                                contact NUL
//	                                device id
//	device_sweep                    number           account
//	key                             check            sealed text that tells whether a key is the right one
//	key                             probe            written to find out whether a full disk has room again
//
// The id of a deleted account stays in account_gone for good and is refused to a new one, which could
// otherwise read what the queue still keeps of the old one. No id is in both account and account_gone.
//
// An account has its four nested buckets as long as it exists. The sequence number of
// subscription_account/<account> is how many subscriptions it holds, so that the limit is checked
// without counting; that of implementation/<account> is how many implementations there are in it, and that of device how many
// devices.
//
// The lanes of implementations are subscriptions with a role. They are in subscription alone, and found by their ids, which
// follow from the implementation.
//
// The number of an implementation is 4 bytes, big-endian. The sequence number of implementation is the last that was given; none is
// given twice. A device id is 16 bytes: the number, the milliseconds since 1970 (6 bytes, big-endian), 6 random ones; so the keys of an
// app ascend with time. A token key is the first 16 bytes of the SHA-256 of number, platform, NUL, token. Each device has one entry in
// device_token and one in device_contact.
//
// A device is there for those who ask if its number is in implementation_number. When an implementation goes its number leaves that
// bucket, and is put into device_sweep if it has devices; it leaves that with the last of them.
//
// # The values
//
// Every value of account, account_gone, token, resource, implementation and device begins with a version byte, 1, and every value of
// subscription with 4. A file or a value of a newer version is refused. A subscription of an older version, which ends
// earlier, is read, and becomes one of version 4 with its next change. The file has version 3: version 2 had no buckets for
// implementations and devices, which are made when it is opened. Members follow in this order: text and bytes with their length
// before them as an unsigned varint, numbers as zigzag varints, truth as one byte 0 or 1, a list as the
// number of its elements and the elements, a time as 0 for none, or 1, the seconds since 1970 (zigzag
// varint) and the nanoseconds (unsigned varint).
//
//	account          name, suspended, created
//	deleted account  when it was deleted
//	token            account, name, scopes, hash (32 bytes, no length), created, expires
//	resource         name
//	subscription     clear part (as bytes), then to the end of the value the sealed part
//	implementation   the same
//	device           the same
//
// The clear part of a subscription: account, created, updated, export format, number of records, longest
// wait (ns), resource, events, payload, method, type of authentication, user name, name, timeout (ns),
// retry schedule, concurrency, state, its reason, its time; then, from version 2 on, the filter as text (empty
// for none), the rate limit (8 bytes, IEEE 754, big-endian), the burst, ordering, ordering key, whether
// disabling is set, after which duration (ns) and how many failures, what becomes of deliveries when disabled,
// whether they are being discarded, and the health: failing since, failures, breaker opened, probes, next
// probe, warned of, notice, its time; of the validation what is confirmed, its expiry, attempts, next attempt and last
// error; of the authentication token URL, client id and scopes; of the client certificate whether it is Herald's, and the
// chain; and whether pushes have a message signature; then, from version 3 on, the kind of validation, and the origin and
// the rate that were permitted; and from version 4 on the role, the implementation, whether events become notifications
// and, if so, of which implementation, for which contact, and the notification as JSON (as bytes), and of the health why
// it is suspended. The sealed part: callback URL, and of the authentication token, password and value, then the signing
// secrets, each key and expiry; and from version 2 on validation URL, validation secret, client secret, key of the client
// certificate, and of each signing secret whether it is an asymmetric one.
//
// The clear part of an implementation: UID (16 bytes), number (4 bytes), name, created, updated; of Android, of iOS
// through FCM, and of the web through FCM whether there is a key and, if so, project, client email, token URI and key id;
// the provider of iOS; whether there is an APNs key and, if so, key id, team, chain, topic and whether it is the sandbox;
// whether there is the web; whether there is a VAPID key and, if so, public key and subject; and the origins of callback
// URLs. The sealed part: the private key of each FCM key there is, APNs key and certificate key, VAPID private key, and
// the secret for status changes.
//
// The clear part of a device: token key (16 bytes, with which it is removed without being decrypted), contact, platform,
// kind, locale, app version, registered, last seen, proven, whether it is of the other environment, and until when it
// rests. The sealed part: token, and the two keys of a web subscription.
//
// # The secrets
//
// A sealed part is 12 random bytes and what AES-256-GCM made with them as nonce and the key of
// secrets.key_file. The associated data is the bucket's name, the record's key (of an implementation with the account and
// NUL before it) and the member's name,
// each with its length before it, and then the clear part: a sealed part moved to another record, or
// beside another clear part, does not open. Access tokens are not in the file at all, only
// their SHA-256.
package boltstore
