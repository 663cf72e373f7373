package store

import "time"

// Notification is what is to be shown, or handed to the app, on devices.
type Notification struct {
	// Title and Text are by language tag (BCP 47), in lower case; both may be empty for a silent one. A text under "" is the one for
	// all languages, and alone in its map; then the other is empty or has one under "" alone, too.
	Title, Text map[string]string
	// ForceLocale is the language of everybody; "" means that of each device.
	ForceLocale string
	// ImageURL is an https URL, or "".
	ImageURL string
	// Data is handed to the app.
	Data map[string]string
	// Actions are the buttons, at most MaxActions.
	Actions []Action
	// Badge is the number at the app's icon, 0 to take it away; nil leaves it.
	Badge *int
	// Sound is the name of a sound of the app, or "default"; "" is silence on iOS and the channel's on Android.
	Sound string
	// Silent: nothing is shown, the app is woken.
	Silent bool
	// TTL is how long a provider keeps it for a device that cannot be reached, in whole seconds up to MaxTTL; 0 means now or never.
	TTL time.Duration
	// High has the device woken for it.
	High bool
	// CollapseKey replaces what is still waiting with the same key; "" replaces nothing. At most MaxCollapseKey bytes.
	CollapseKey string

	Android AndroidOptions
	APNs    APNsOptions
	Web     WebOptions
}

// Limits of a notification.
const (
	MaxTTL         = 2_419_200 * time.Second
	MaxCollapseKey = 64
	MaxActions     = 10
	// MaxPayload bounds what APNs, FCM and (less what encryption adds) push services take, in bytes.
	MaxPayload = 4096
)

// Action is a button of a notification.
type Action struct {
	// ID is what the app is told, Title what is shown, IconURL for browsers.
	ID, Title, IconURL string
}

// AndroidOptions are for Android devices alone. Empty members leave the app's own.
type AndroidOptions struct {
	ClickAction, Icon, Color, ChannelID, Tag string
	// LocalizedTitle and LocalizedText are keys of the app's string resources, with their arguments.
	LocalizedTitle, LocalizedText         string
	LocalizedTitleArgs, LocalizedTextArgs []string
	// TTL overrides that of the notification.
	TTL *time.Duration
}

// APNsOptions are for iOS devices alone.
type APNsOptions struct {
	// LocalizedTitle and LocalizedText are keys of Localizable.strings, with their arguments.
	LocalizedTitle, LocalizedText                                  string
	LocalizedTitleArgs, LocalizedTextArgs                          []string
	Subtitle, Category, ThreadID, InterruptionLevel, TargetContent string
	// MutableContent lets an extension of the app change it first.
	MutableContent bool
	// Critical sounds also when the device is muted, at Volume from 0 to 1.
	Critical bool
	Volume   float64
	// RelevanceScore from 0 to 1 sorts a summary; nil leaves it.
	RelevanceScore *float64
	TTL            *time.Duration
}

// WebOptions are for browsers alone.
type WebOptions struct {
	IconURL, TargetURL, BadgeURL, Tag string
	RequireInteraction, Renotify      bool
	TTL                               *time.Duration
}
