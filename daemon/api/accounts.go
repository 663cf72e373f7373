package api

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"herald/queue"
	"herald/store"
)

type accountView struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Suspended bool      `json:"suspended"`
	CreatedAt time.Time `json:"createdAt"`
}

func viewAccount(a *store.Account) accountView {
	return accountView{a.ID, a.Name, a.Suspended, a.CreatedAt.UTC()}
}

func (a *API) listAccounts(c *call) error {
	var fs faults
	q := c.r.URL.Query()
	limit, after := limitOf(q, &fs, 0), q.Get("after")
	if after != "" {
		if err := checkChosenID(after); err != nil {
			fs.add("after", "must be the id of an account")
		}
	}
	if err := fs.err(); err != nil {
		return err
	}
	return stream(c, q, limit, func(last *store.Account, n int) ([]store.Account, error) {
		if last != nil {
			after = last.ID
		}
		return a.store.Accounts(c.r.Context(), after, n)
	}, func(x *store.Account) string { return x.ID }, viewOf(viewAccount))
}

func (a *API) createAccount(c *call) error {
	var fs faults
	f, err := c.readObject(&fs)
	if err != nil {
		return err
	}
	account := store.Account{CreatedAt: a.moment()}
	id, p := f.text("id")
	switch p {
	case absent, null:
		f.fault("id", "is needed: the account's name in calls, such as shop-1")
	case given:
		if err := checkChosenID(id); err != nil {
			f.fault("id", "%s", err.Error())
		}
	case wrong:
	}
	account.ID = id
	account.Name, _ = f.label("name")
	account.Suspended, _ = f.boolean("suspended")
	f.end("")
	if err := fs.err(); err != nil {
		return err
	}
	if err := a.store.CreateAccount(c.r.Context(), account); err != nil {
		if errors.Is(err, store.ErrExists) {
			return newProblem(conflict, "there is an account %s already", account.ID)
		}
		if errors.Is(err, store.ErrRetired) {
			return newProblem(conflict, "the id %s belonged to an account that was deleted and cannot be used again; choose another",
				account.ID)
		}
		return err
	}
	c.Header().Set("Location", "/accounts/"+account.ID)
	return c.answer(http.StatusOK, viewAccount(&account))
}

func (a *API) readAccount(c *call) error {
	account, err := a.store.Account(c.r.Context(), c.r.PathValue("account"))
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, viewAccount(&account))
}

func (a *API) replaceAccount(c *call) error { return a.changeAccount(c, false, typeJSON) }

func (a *API) patchAccount(c *call) error {
	return a.changeAccount(c, true, typeMergePatch, typeJSON)
}

// changeAccount is PUT, and with patch PATCH. Both take back what a read answered.
func (a *API) changeAccount(c *call, patch bool, types ...string) error {
	var fs faults
	f, err := c.readObject(&fs, types...)
	if err != nil {
		return err
	}
	id := c.r.PathValue("account")
	f.same("id", id, "an account keeps its id")
	name, hasName := f.label("name")
	suspend, hasSuspend := f.boolean("suspended")
	f.ignore("createdAt")
	f.end("")
	if err := fs.err(); err != nil {
		return err
	}
	account, err := a.store.UpdateAccount(c.r.Context(), id, func(x *store.Account) error {
		if hasName != absent || !patch {
			x.Name = name
		}
		if hasSuspend != absent || !patch {
			x.Suspended = suspend
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, viewAccount(&account))
}

func (a *API) deleteAccount(c *call) error {
	id := c.r.PathValue("account")
	if id == store.DefaultAccount {
		return newProblem(conflict, "the account %s cannot be deleted", id)
	}
	implementations, err := a.store.Implementations(c.r.Context(), id, "", maxImplementations)
	if err != nil {
		return err
	}
	gone, err := a.store.DeleteAccount(c.r.Context(), id)
	if err != nil {
		return err
	}
	for _, i := range implementations {
		a.notifier.Changed(id, i.ID, allLanes(i))
	}
	a.dropLanes(c.r.Context(), gone)
	return c.empty()
}

// dropWorkers is how many lanes are dropped at once, so that the drops share commits.
const dropWorkers = 16

// dropLanes ends the deliveries of subscriptions that are deleted already. It goes on when the caller
// goes away, and what fails here is repeated by the daemon at its next start, when it finds lanes
// without a subscription; until then the dispatcher finds no subscription and sends nothing.
func (a *API) dropLanes(ctx context.Context, ids []store.SubscriptionID) {
	ctx = context.WithoutCancel(ctx)
	work := make(chan store.SubscriptionID)
	var wg sync.WaitGroup
	for range min(dropWorkers, len(ids)) {
		wg.Go(func() {
			for id := range work {
				a.changed(id)
				if err := a.queue.DropLane(ctx, queue.Lane(id)); err != nil {
					a.logger.WarnContext(ctx, "dropping the deliveries of a deleted subscription waits for the next start",
						"subscription", id.String(), "error", err)
				}
			}
		})
	}
	for _, id := range ids {
		work <- id
	}
	close(work)
	wg.Wait()
}

// moment is now as records keep it: in UTC, with milliseconds.
func (a *API) moment() time.Time { return a.now().UTC().Truncate(time.Millisecond) }
